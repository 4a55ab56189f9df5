# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`/v1/images/generations` and `/v1/images/edits`."""

import base64
import io
import secrets
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from ..engine import NOT_TOLD, ImageJob, MadeImage
from ..pictures import write_png
from .batching import Work
from .errors import ApiError, from_validation
from .schema import ImageRequest
from .service import Patience, Service
from .settings import ServerSettings
from .uploads import check_picture

router = APIRouter()
MAX_FIELDS = 64
EDIT_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        **ImageRequest.model_json_schema()["properties"],
                    },
                }
            }
        },
    }
}


@router.post("/v1/images/generations", summary="Draw pictures")
async def generate(request: Request, body: ImageRequest) -> dict[str, Any]:
    return await _make(request, body, None)


@router.post("/v1/images/edits", summary="Change a picture", openapi_extra=EDIT_SCHEMA)
async def edit(request: Request) -> dict[str, Any]:
    service: Service = request.app.state.service
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(400, "The request must be a form with files, sent as `multipart/form-data`.")
    async with request.form(max_files=service.settings.max_pictures, max_fields=MAX_FIELDS) as form:
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        strange = sorted({name for name, _ in files} - {"image", "image[]"})
        if strange:
            raise ApiError(400, f"`{strange[0]}` is not served here: send one file, `image`.", param=strange[0])
        if len(files) != 1:
            raise ApiError(400, f"`image` must be one file, the source, but got {len(files)}.", param="image")
        data = await files[0][1].read(service.settings.max_upload + 1)
    try:
        body = ImageRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from error
    return await _make(request, body, check_picture(data, service.settings, "image"))


async def _make(request: Request, body: ImageRequest, source: Callable[[], Image.Image] | None) -> dict[str, Any]:
    """Makes the pictures of a request and says them."""
    service: Service = request.app.state.service
    service.check_model(body.model)
    jobs = _jobs(body, source, service.settings)
    with Patience(request, service.settings.timeout) as patience:
        # Whatever is wrong with it is told before it takes a place, and before it joins the batch of others.
        inputs = await service.read(service.engine.prepare, [_job(body, source, jobs[0].seed)])
        works = [Work(job, key=tuple(sorted(job.sampling.items()))) for job in jobs]
        service.submit(works)
        made: list[MadeImage] = await service.finish(works, patience)
    return {
        "created": int(time.time()),
        "data": [await service.read(_said, image, service.name) for image in made],
        "output_format": "png",
        "size": f"{made[0].picture.width}x{made[0].picture.height}",
        "usage": _usage(inputs, len(made)),
    }


def _jobs(body: ImageRequest, source: Callable[[], Image.Image] | None, settings: ServerSettings) -> list[ImageJob]:
    if body.n > settings.max_images:
        raise ApiError(400, f"`n` must be at most {settings.max_images} here, but got {body.n}.", param="n")
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    return [_job(body, source, seed + index) for index in range(body.n)]


def _job(body: ImageRequest, source: Callable[[], Image.Image] | None, seed: int) -> ImageJob:
    width, height = body.width_and_height
    return ImageJob(
        body.prompt,
        None if source is None else source(),
        height=height,
        width=width,
        aspect_ratio=body.aspect_ratio,
        seed=seed,
        negative_prompt=body.negative_prompt,
        sampling=body.sampling,
    )


def _said(made: MadeImage, name: str) -> dict[str, Any]:
    """A picture as a client gets it. Its file names the model as the server does, and not what other clients asked for
    in the same batch."""
    batch = dict(made.info["batch"])
    if "others" in batch:
        batch["others"] = NOT_TOLD
    file = io.BytesIO()
    write_png(made.picture, file, {**made.info, "checkpoint": name, "batch": batch})
    return {"b64_json": base64.b64encode(file.getvalue()).decode(), "seed": made.info["seed"]}


def _usage(inputs: Any, count: int) -> dict[str, Any]:
    """Tokens: those of the prompt once, and the codes of each picture."""
    text = int((inputs["mm_token_type_ids"] == 0).sum())
    read = int(inputs["attention_mask"].sum())
    height, width = inputs["target_grid"][0].tolist()
    return {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": text, "image_tokens": read - text},
        "output_tokens": count * height * width,
        "total_tokens": read + count * height * width,
    }


__all__ = ["router"]
