# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures that a benchmark of another kit asks for, as files: edits where a request has a picture, drawings where it
has none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..image_grid_wallaroo import EDIT, GENERATE
from ..image_processing_wallaroo import to_rgb
from .answer_store import computed_by, fingerprint, is_drawn, picture_path, save_picture
from .answering import Question, seed_of
from .gedit import GEDIT
from .settings import PAPER, template_of

# A value of `template_language`: which language it is hangs on the benchmark.
PAPER_LANGUAGE = "paper"


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are made; `None` for the checkpoint's own.

    Attributes:
        height, width: in pixels; by default 512 x 512 for drawings, the trained size nearest to the source for edits.
        layout, negative_prompt: of the processor.
        template_language: `"en"` or `"zh"` for the templates of one language, else those of each prompt's own;
            `"paper"` for English ones, but each instruction's own language in GEdit-Bench.
        guidance_scale, temperature, top_k, top_p, do_sample: of `model.generate`.
    """

    height: int | None = None
    width: int | None = None
    layout: str | None = None
    negative_prompt: str | None = None
    template_language: str | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    do_sample: bool | None = None

    @classmethod
    def of_paper(cls, **changes: Any) -> "PictureOptions":
        """Those of the published numbers, as `settings.PAPER` has them; sizes are the checkpoint's own."""
        paper = {name: value for name, value in PAPER.items() if name != "language"}
        return cls(**{**paper, "template_language": PAPER_LANGUAGE, **changes})

    def sampling(self) -> dict[str, Any]:
        """Arguments of `model.generate`."""
        names = ("guidance_scale", "temperature", "top_k", "top_p", "do_sample")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def request_of(question: Question) -> tuple[str, str, Any]:
    """Task, prompt and source picture (or `None`) of a request."""
    prompt, pictures = question.text(), question.media("image")
    if not prompt:
        raise ValueError(f"{question.name}: a picture is asked for, but the request has no text that says which.")
    if len(pictures) > 1 or question.media("video"):
        raise ValueError(
            f"{question.name}: a picture is asked for from {len(pictures)} pictures and "
            f"{len(question.media('video'))} videos, but Wallaroo edits one picture. Leave this benchmark out."
        )
    return (EDIT.name, prompt, to_rgb(pictures[0])) if pictures else (GENERATE.name, prompt, None)


def make_pictures(
    model: Any,
    processor: Any,
    requests: Sequence[Question],
    folder: str | Path,
    *,
    checkpoint: str,
    options: PictureOptions,
    batch_size: int = 1,
    seed: int = 0,
    on_pictures: Callable[[int], None] | None = None,
) -> list[Path]:
    """Files of the pictures that are asked for, in the order of the requests.

    A picture that is there already, from the same request to the same checkpoint, stays.

    Args:
        checkpoint: its fingerprint.
        seed: picture by picture the seed is made of this and the request's name.
        on_pictures: called with the number of requests that a batch settled.
    """
    paths = [picture_path(folder, request.name) for request in requests]
    chosen = {**options.__dict__, "seed": seed, **computed_by(model, processor)}
    keys = [fingerprint(request, checkpoint, chosen) for request in requests]
    missing = [index for index, path in enumerate(paths) if not is_drawn(path, keys[index])]
    if on_pictures is not None and len(missing) < len(requests):
        on_pictures(len(requests) - len(missing))
    # Those of one task together: their prompts are about as long.
    missing.sort(key=lambda index: (len(requests[index].media("image")), index))
    for start in range(0, len(missing), batch_size):
        indices = missing[start : start + batch_size]
        for index, picture in zip(
            indices, _make(model, processor, [requests[index] for index in indices], options, seed), strict=True
        ):
            save_picture(picture, paths[index], keys[index])
        if on_pictures is not None:
            on_pictures(len(indices))
    return [path.resolve() for path in paths]


def _language(request: Question, options: PictureOptions) -> str | None:
    """The language of the request's template; `None` for that of its prompt."""
    if options.template_language != PAPER_LANGUAGE:
        return options.template_language
    return {**PAPER, **(GEDIT.paper if request.name.startswith("gedit_bench/") else {})}["language"]


@torch.no_grad()
def _make(model, processor, requests: Sequence[Question], options: PictureOptions, seed: int) -> list[Any]:
    """PIL images of one batch."""
    parsed = [request_of(request) for request in requests]
    tasks = [task for task, _, _ in parsed]
    templates = [
        template_of({"language": _language(request, options)}, task, processor)
        for request, task in zip(requests, tasks, strict=True)
    ]
    names = ", ".join(request.name for request in requests)
    try:
        inputs = processor(
            text=[prompt for _, prompt, _ in parsed],
            images=[None if source is None else [source] for _, _, source in parsed],
            task=tasks,
            height=options.height,
            width=options.width,
            layout=options.layout,
            negative_prompt=options.negative_prompt,
            template=templates,
            return_tensors="pt",
        ).to(model.device)
    except ValueError as error:
        raise ValueError(f"{error} This was in {names}.") from error
    seeds = [seed_of(request.name, seed) for request in requests]
    sequences = model.generate(**inputs, seed=seeds, show_progress=False, **options.sampling())
    return processor.image_processor.postprocess(model.decode_image_tokens(sequences))


__all__ = ["PictureOptions", "make_pictures", "request_of"]
