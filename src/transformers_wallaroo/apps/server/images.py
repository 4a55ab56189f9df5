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

from ..engine import NOT_TOLD, Engine, ImageJob, MadeImage
from ..pictures import transparent_region, write_png
from ..sizes import write_size
from .batching import Work
from .errors import ApiError, from_validation
from .schema import EditRequest, ImageRequest
from .service import Patience, Service
from .settings import ServerSettings
from .uploads import check_picture

router = APIRouter()
Open = Callable[[], Image.Image]  # opens a picture anew each time
MAX_FIELDS = 64
SOURCE = ("image", "image[]")  # OpenAI's clients send a list by the second
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
                        "mask": {"type": "string", "format": "binary"},
                        **EditRequest.model_json_schema()["properties"],
                    },
                }
            }
        },
    }
}


@router.post("/v1/images/generations", summary="Draw pictures")
async def generate(request: Request, body: ImageRequest) -> dict[str, Any]:
    return await _make(request, body)


@router.post("/v1/images/edits", summary="Change a picture", openapi_extra=EDIT_SCHEMA)
async def edit(request: Request) -> dict[str, Any]:
    service: Service = request.app.state.service
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(400, "The request must be a form with files, sent as `multipart/form-data`.")
    async with request.form(max_files=service.settings.max_pictures, max_fields=MAX_FIELDS) as form:
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        strange = sorted({name for name, _ in files} - {*SOURCE, "mask"})
        if strange:
            told = f"`{strange[0]}` is not served here: send one file, `image`, and perhaps one, `mask`."
            raise ApiError(400, told, param=strange[0])
        image = await _one_file("image", [file for name, file in files if name in SOURCE], service.settings)
        mask = await _one_file("mask", [file for name, file in files if name == "mask"], service.settings)
    if image is None:
        raise ApiError(400, "`image` must be one file, the source, but got 0.", param="image")
    if "mask" in fields:
        raise ApiError(400, "`mask` must be a file, whose transparent pixels say where to edit.", param="mask")
    try:
        body = EditRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from error
    return await _make(request, body, image, None if mask is None else await _region(mask, service))


async def _one_file(param: str, files: list[UploadFile], settings: ServerSettings) -> Open | None:
    """What opens the one file of this name, if there is one."""
    if not files:
        return None
    if len(files) > 1:
        raise ApiError(400, f"`{param}` must be one file, but got {len(files)}.", param=param)
    return check_picture(await files[0].read(settings.max_upload + 1), settings, param)


async def _region(mask: Open, service: Service) -> Open:
    try:
        return await service.read(lambda: transparent_region(mask(), "mask"))
    except ApiError as error:
        error.param = "mask"
        raise


async def _make(
    request: Request, body: ImageRequest, source: Open | None = None, region: Open | None = None
) -> dict[str, Any]:
    """Makes the pictures of a request and says them."""
    service: Service = request.app.state.service
    service.check_model(body.model)
    if body.n > service.settings.max_images:
        told = f"`n` must be at most {service.settings.max_images} here, but got {body.n}."
        raise ApiError(400, told, param="n")
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    with Patience(request, service.settings.timeout) as patience:
        # Whatever is wrong with it is told before it takes a place, and before it joins the batch of others.
        inputs = await service.read(_prepare, service.engine, body, source, region, seed)
        jobs = [_job(body, source, region, seed + index) for index in range(body.n)]
        works = [Work(job, key=tuple(sorted(job.sampling.items()))) for job in jobs]
        service.submit(works)
        made: list[MadeImage] = await service.finish(works, patience)
    return {
        "created": int(time.time()),
        "data": [await service.read(_said, image, service.name) for image in made],
        "output_format": "png",
        "size": write_size(made[0].picture.height, made[0].picture.width),
        "usage": _usage(inputs, len(made)),
    }


def _prepare(engine: Engine, body: ImageRequest, source: Open | None, region: Open | None, seed: int) -> Any:
    """The processor's inputs of the first picture; a `ValueError` names the fields as clients do."""
    try:
        return engine.prepare([_job(body, source, region, seed)])
    except ValueError as error:
        raise ValueError(str(error).replace("`region_mask`", "`mask`")) from error


def _job(body: ImageRequest, source: Open | None, region: Open | None, seed: int) -> ImageJob:
    height, width = body.height_and_width
    return ImageJob(
        body.prompt,
        None if source is None else source(),
        height=height,
        width=width,
        aspect_ratio=body.aspect_ratio,
        seed=seed,
        negative_prompt=body.negative_prompt,
        sampling=body.sampling,
        region_mask=None if region is None else region(),
        original_size=isinstance(body, EditRequest) and body.original_size,
        keep_source=isinstance(body, EditRequest) and body.keep_source,
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
