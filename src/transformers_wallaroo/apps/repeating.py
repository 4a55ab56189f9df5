# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Making a picture once more from what its file says, bit for bit."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..image_processing_wallaroo import to_mask
from .engine import NOT_TOLD, SAMPLING, Engine, ImageJob, MadeImage
from .making import make_in_batches
from .pictures import open_picture, picture_hash, read_picture_info

MOST_NEIGHBOURS = 1024
# What a file says of an edit by true or false, and the option of `wallaroo edit`.
FLAGS = {"original_size": "--original-size", "keep_source": "--keep-source"}
# What a file must say, and of which type.
NEEDED: dict[str, type] = {
    "task": str,
    "prompt": str,
    "negative_prompt": str,
    "height": int,
    "width": int,
    "seed": int,
    "sampling": dict,
    "batch": dict,
}


@dataclass(frozen=True)
class Repeat:
    """A picture to be made again.

    Attributes:
        path, info, picture: the file, what it says, and what it shows.
        jobs: the batch that it was made in, since rounding may depend on it.
        index: its place there.
        note: what a user should know, or `None`.
    """

    path: Path
    info: dict[str, Any]
    picture: Image.Image
    jobs: list[ImageJob]
    index: int
    note: str | None = None

    def make(self, engine: Engine, **options: Any) -> MadeImage:
        """Makes it, with as many threads as it was made with; `options` go to `make_in_batches`."""
        threads, noted = torch.get_num_threads(), self.info.get("threads")
        on_cpu = engine.model.device.type == "cpu"
        try:
            if on_cpu and isinstance(noted, int) and 1 <= noted <= 4096:
                torch.set_num_threads(noted)
            made = dict(make_in_batches(engine, self.jobs, batch_size=len(self.jobs), **options))
            return made[self.index]
        finally:
            torch.set_num_threads(threads)

    def is_same(self, made: MadeImage) -> bool:
        """Whether all pixels are equal."""
        return picture_hash(made.picture) == picture_hash(self.picture)


def read_repeat(path: Path, image: Path | None = None, *, task: str | None = None) -> Repeat:
    """What to make to get the picture in this file again.

    Args:
        image: the source of an edit, where it is no longer where the file says.
        task: the only one that is right here.
    """
    if not path.is_file():
        raise ValueError(f"`--from` must be a PNG that wallaroo has made, but there is no file {path}.")
    try:
        info = read_picture_info(path)
    except OSError as error:
        raise ValueError(f"`--from` must be a PNG that wallaroo has made, but {path} is no picture.") from error
    _check_info(path, info)
    if task not in (None, info["task"]):
        raise ValueError(
            f"{path} was made by `wallaroo {info['task']}`, so `wallaroo {info['task']} --from {path}` makes it again."
        )
    batch = info["batch"]
    index, size, others = batch["index"], batch["size"], batch.get("others")
    own = _job(path, info, info["sampling"], image)
    picture = open_picture(path)
    if others is None:
        jobs = [replace(own, seed=own.seed - index + place) for place in range(size)]
        return Repeat(path, info, picture, jobs, index)
    if others == NOT_TOLD:
        return Repeat(path, info, picture, [own], 0, "It is made by itself, and may round otherwise.")
    try:
        jobs = [_job(path, other, info["sampling"], None, known=own) for other in others]
    except ValueError as error:
        return Repeat(path, info, picture, [own], 0, f"It is made by itself, and may round otherwise: {error}")
    return Repeat(path, info, picture, [*jobs[:index], own, *jobs[index:]], index)


def _check_info(path: Path, info: Mapping[str, Any]) -> None:
    lacking = [name for name, kind in NEEDED.items() if not isinstance(info.get(name), kind)]
    if not lacking:
        batch = info["batch"]
        index, size, others = batch.get("index"), batch.get("size"), batch.get("others", "none")
        fits = isinstance(index, int) and isinstance(size, int) and 0 <= index < size <= MOST_NEIGHBOURS
        if not fits or (others not in ("none", NOT_TOLD) and (not isinstance(others, list) or len(others) + 1 != size)):
            lacking = ["batch"]
        elif info["task"] not in ("generate", "edit"):
            lacking = ["task"]
        elif (info["task"] == "edit") != isinstance(info.get("source"), dict):
            lacking = ["source"]
    if lacking:
        raise ValueError(
            f"{path} says too little of how it was made, or what makes no sense: {', '.join(lacking)}. It cannot be "
            "repeated."
        )


def _job(
    path: Path, request: Any, sampling: Mapping[str, Any], image: Path | None, known: ImageJob | None = None
) -> ImageJob:
    """The job of one picture of the batch, which may have the source of one that is `known`."""
    names = [name for name in NEEDED if name not in ("sampling", "batch")]
    if not isinstance(request, dict) or any(not isinstance(request.get(name), NEEDED[name]) for name in names):
        raise ValueError(f"{path} says too little of the pictures that it was made with. It cannot be repeated.")
    source, source_path, mask, mask_path = None, None, None, None
    if request.get("source") is not None:
        noted = request["source"] if isinstance(request["source"], dict) else {}
        if known is not None and known.source is not None and picture_hash(known.source) == noted.get("sha256"):
            source, source_path = known.source, known.source_path
        else:
            source, source_path = _find_source(path, noted, image)
    if isinstance(request.get("region_mask"), dict):
        mask, mask_path = _find_mask(path, request["region_mask"])
    return ImageJob(
        request["prompt"],
        source,
        source_path,
        request["height"],
        request["width"],
        seed=request["seed"],
        negative_prompt=request["negative_prompt"],
        sampling={name: value for name, value in sampling.items() if name in SAMPLING},
        region_mask=mask,
        mask_path=mask_path,
        original_size=request.get("original_size") is True,
        keep_source=request.get("keep_source") is True,
    )


def _find_source(path: Path, noted: Mapping[str, Any], image: Path | None) -> tuple[Image.Image, str]:
    """The source of an edit and its path: `image`, or where the file says."""
    if image is not None:
        source = open_picture(image, "--image")
        if picture_hash(source) != noted.get("sha256"):
            raise ValueError(f"`--image` must be the picture that {path} was edited from, but {image} is another one.")
        return source, os.fspath(image)
    found, where = _find(path, noted, picture_hash)
    if found is None:
        raise ValueError(f"{path} was edited from {where}. Say where the source is by `--image`.")
    return found, where


def _find_mask(path: Path, noted: Mapping[str, Any]) -> tuple[Image.Image, str]:
    """The region mask of an edit and its path."""
    mask, where = _find(path, noted, lambda picture: picture_hash(Image.fromarray(to_mask(picture))))
    if mask is None:
        raise ValueError(f"{path} was edited within the region mask {where}. Put the mask back there.")
    return mask, where


def _find(
    path: Path, noted: Mapping[str, Any], hash_of: Callable[[Image.Image], str]
) -> tuple[Image.Image | None, str]:
    """A picture that a file names, seen from here or from beside the file, and its path; or `None` and why not."""
    where = noted.get("path")
    tried = [Path(where), path.parent / where, path.parent / Path(where).name] if isinstance(where, str) else []
    changed = False
    for candidate in tried:
        if candidate.is_file():
            picture = open_picture(candidate, "source")
            if hash_of(picture) == noted.get("sha256"):
                return picture, os.fspath(candidate)
            changed = True
    what = "is another picture now" if changed else "is not there" if tried else "is not named in it"
    return None, f"{where or 'a picture'}, which {what}"


def differences(info: Mapping[str, Any], engine: Engine) -> str | None:
    """A sentence that says what is not as it was when a picture was made, and so may make another one of it."""
    now = engine.describe(ImageJob(""), (engine.cell, engine.cell))
    told = []
    if info.get("checkpoint_hash") != now["checkpoint_hash"]:
        told.append(
            f"the checkpoint {info.get('checkpoint')} ({info.get('checkpoint_hash')}), now {now['checkpoint']} "
            f"({now['checkpoint_hash']})"
        )
    told += [
        f"{name} {info.get(name)}, now {now.get(name)}"
        for name in ("device", "gpu", "dtype")
        if info.get(name) != now.get(name)
    ]
    then = info.get("versions") if isinstance(info.get("versions"), dict) else {}
    assert isinstance(then, dict)
    told += [
        f"{name} {then.get(name, 'unknown')}, now {version}"
        for name, version in now["versions"].items()
        if name != "python" and then.get(name) != version
    ]
    return f"It was made with {'; '.join(told)}: the picture may differ." if told else None


def command_line(info: Mapping[str, Any]) -> str:
    """The command that makes a picture like this one, with the same settings."""
    sampling = info.get("sampling") or {}
    parts = ["wallaroo", str(info.get("task")), str(info.get("prompt"))]
    if info.get("source"):
        parts += ["--image", str(info["source"].get("path", "SOURCE"))]
    parts += ["--size", f"{info.get('width')}x{info.get('height')}", "--seed", str(info.get("seed"))]
    if info.get("negative_prompt"):
        parts += ["--negative", str(info["negative_prompt"])]
    if isinstance(info.get("region_mask"), dict):
        parts += ["--mask", str(info["region_mask"].get("path", "MASK"))]
    parts += [option for name, option in FLAGS.items() if info.get(name) is True]
    options = {
        "guidance_scale": "--guidance",
        "image_guidance_scale": "--image-guidance",
        "speculative_window": "--speculative",
    }
    if sampling.get("do_sample", True):
        options |= {"temperature": "--temperature", "top_k": "--top-k", "top_p": "--top-p"}
    else:
        parts += ["--temperature", "0"]
    for name, option in options.items():
        if isinstance(sampling.get(name), (int, float)):
            parts += [option, f"{sampling[name]:g}"]
    return shlex.join(parts)


__all__ = ["Repeat", "command_line", "differences", "read_repeat"]
