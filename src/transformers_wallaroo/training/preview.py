# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures that a model in training makes of a few fixed samples, on one sheet."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..image_grid_wallaroo import ImageTask, get_task
from ..image_processing_wallaroo import to_rgb
from .stages import part_of

MARGIN, TEXT_HEIGHT = 12, 34  # pixels


def make_images(
    model: Any,
    processor: Any,
    samples: Sequence[Mapping[str, Any]],
    *,
    seed: int | Sequence[int] = 0,
    batch_size: int = 32,
    layout: str | None = None,
    template: str | None = None,
    **generate_options: Any,
) -> list[Image.Image]:
    """The model's image for each sample of `generate` or `edit`, in their order.

    Image `i` is drawn with the seed `seed + i`, or with the `i`-th of as many seeds as there are samples, whatever the
    batch size. `layout` and `template` are those of all prompts, by default the processor's. `generate_options` go to
    `model.generate`.
    """
    every_seed = [seed + index for index in range(len(samples))] if isinstance(seed, int) else list(seed)
    if len(every_seed) != len(samples):
        raise ValueError(f"`seed` must be an int or a seed a sample, but got {len(every_seed)} for {len(samples)}.")
    pictures: dict[int, Image.Image] = {}
    was_training = model.training
    model.eval()
    for task in ("generate", "edit"):
        chosen = [index for index, sample in enumerate(samples) if sample["task"] == task]
        for start in range(0, len(chosen), batch_size):
            indices = chosen[start : start + batch_size]
            sizes = [_size(samples[index], processor) for index in indices]
            inputs = processor(
                text=[samples[index]["prompt"] for index in indices],
                images=[[to_rgb(samples[index]["source_image"])] for index in indices] if task == "edit" else None,
                height=[height for height, _ in sizes],
                width=[width for _, width in sizes],
                task=task,
                layout=layout,
                template=template,
                return_tensors="pt",
            ).to(model.device)
            seeds = [every_seed[index] for index in indices]
            output = model.generate(**inputs, task=task, seed=seeds, **generate_options)
            made = processor.image_processor.postprocess(model.decode_image_tokens(output))
            pictures.update(zip(indices, made, strict=True))
    model.train(was_training)
    return [pictures[index] for index in sorted(pictures)]


def _size(sample: Mapping[str, Any], processor: Any) -> tuple[int, int]:
    """Height and width in pixels at which the collator would have the sample learned."""
    if sample.get("height") is not None:
        return sample["height"], sample["width"]
    if sample.get("codes") is not None:
        factor = processor.image_processor.downsample_factor
        return len(sample["codes"]) * factor, len(sample["codes"][0]) * factor
    picture = to_rgb(sample["source_image" if sample["task"] == "edit" else "image"])
    return processor.image_processor.bucket_of(picture.height, picture.width)


def _own_picture(sample: Mapping[str, Any], model: Any, processor: Any) -> Image.Image:
    """What the sample is to become; decoded where it is known by its codes alone."""
    if sample.get("image") is not None:
        return to_rgb(sample["image"])
    codes = torch.as_tensor(sample["codes"], device=model.device)
    vq_model: Any = part_of(model, "vq_model")
    return processor.image_processor.postprocess(vq_model.decode(codes[None]))[0]


def draw_preview(model: Any, processor: Any, samples: Sequence[Mapping[str, Any]], *, seed: int = 0) -> Image.Image:
    """A contact sheet: prompt, source where there is one, the picture made, and the sample's own picture."""
    chosen = [sample for sample in samples if isinstance(get_task(sample["task"]), ImageTask)]
    made = make_images(model, processor, chosen, seed=seed)
    entries = []
    for sample, picture in zip(chosen, made, strict=True):
        source = [to_rgb(sample["source_image"])] if sample["task"] == "edit" else []
        entries.append((sample["prompt"], [*source, picture, _own_picture(sample, model, processor)]))
    return contact_sheet(entries)


def contact_sheet(
    entries: Sequence[tuple[str, Sequence[Image.Image]]], *, title: str = "", height: int = 128, columns: int = 4
) -> Image.Image:
    """Pictures with a caption above each group, on white.

    Args:
        entries: caption and pictures of each group. Pillow's own font has no Chinese: such characters are left out.
        height: of each picture, in pixels.
        columns: groups side by side.
    """
    font = ImageFont.load_default(size=13)
    groups = [[_scaled(picture, height) for picture in pictures] for _, pictures in entries]
    widths = [sum(picture.width + MARGIN // 2 for picture in group) for group in groups]
    columns = max(min(columns, len(groups)), 1)
    cell_width = max([*widths, 220]) + MARGIN
    cell_height = height + TEXT_HEIGHT + MARGIN
    rows = -(-len(entries) // columns)
    top = MARGIN + (TEXT_HEIGHT if title else 0)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + top), (236, 236, 240))
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=(60, 60, 70), font=ImageFont.load_default(size=16))
    for index, ((caption, _), group) in enumerate(zip(entries, groups, strict=True)):
        left, y = MARGIN + index % columns * cell_width, top + index // columns * cell_height
        draw.multiline_text((left, y), _wrapped(caption, cell_width - MARGIN, font), fill="black", font=font, spacing=1)
        for picture in group:
            sheet.paste(picture, (left, y + TEXT_HEIGHT))
            left += picture.width + MARGIN // 2
    return sheet


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    width = max(round(picture.width * height / picture.height), 1)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _wrapped(text: str, width: int, font: Any) -> str:
    """At most two lines that fit into `width` pixels."""
    lines = [""]
    for word in text.encode("ascii", "ignore").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:2])


def send_to_trackers(callbacks: Iterable[Any], sheet: Image.Image, step: int) -> None:
    """Hands the sheet to TensorBoard's and Weights & Biases' callbacks, where `Trainer` has them."""
    for callback in callbacks:
        writer = getattr(callback, "tb_writer", None)
        if writer is not None:
            pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
            writer.add_image("previews", pixels, step)
        wandb = getattr(callback, "_wandb", None)
        if wandb is not None:
            wandb.log({"previews": wandb.Image(sheet), "train/global_step": step})
