# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the VQ tokenizer is trained on: recipe, pictures and batches."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch.utils.data import Dataset

from ..shapes.world import BUCKETS, CELL, HELD_OUT, MAX_THINGS, STYLES, Scene, random_scene, render
from .recipes import check_keys
from .sources import PICTURE_ENDINGS


@dataclass
class VQTrainingConfig:
    """A recipe: the tokenizer, its data, its losses and the trainer's settings.

    Attributes:
        vq_config: fields of `WallarooVQConfig`.
        data: `"shapes"`, or a folder of pictures.
        size: height and width in pixels that the pictures of a folder are brought to.
        small_share: as in `ShapesPictures`.
        output_dir: where the tokenizer goes.
        steps, batch_size, learning_rate, warmup_steps, adam_beta2, max_grad_norm, seed, bf16, save_steps, log_steps,
            report_to: as in `TrainingArguments`; `batch_size` counts pictures a step and process.
        pixel_l2_weight, pixel_l1_weight, commitment_weight, codebook_weight: of the losses.
        foreground_weight: how much more a pixel counts that has not the picture's commonest colour.
        same_cell_weight: of the distance between latents of cells whose pixels are equal.
        contrast_weight, contrast_temperature: of the cross-entropy of telling a cell by its latent among the means of
            all groups of cells with equal pixels: it keeps unlike cells apart. With it or `same_cell_weight` above 0,
            cells with equal pixels also share a code.
        continuous_steps: steps at first in which the decoder reads latents instead of codes.
        init_gain: by how much a convolution multiplies the size of its input at the start.
        dead_after: steps without use after which a code is moved.
        restart_distance: squared distance, in `[0, 4]`, to its code from which on a latent draws a dead code.
    """

    vq_config: dict[str, Any] = field(default_factory=dict)
    data: str = "shapes"
    size: list[int] = field(default_factory=lambda: [256, 256])
    small_share: float = 0.0
    output_dir: str = "runs/vq"
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    save_steps: int = 500
    log_steps: int = 50
    report_to: str = "none"
    pixel_l2_weight: float = 1.0
    pixel_l1_weight: float = 0.0
    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    foreground_weight: float = 0.0
    same_cell_weight: float = 0.0
    contrast_weight: float = 0.0
    contrast_temperature: float = 0.1
    continuous_steps: int = 0
    init_gain: float = 1.0
    dead_after: int = 50
    restart_distance: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the recipe") -> "VQTrainingConfig":
        """Checks names and types; an unknown key names the nearest known one."""
        check_keys(cls, values, where)
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike) -> "VQTrainingConfig":
        """Reads a recipe from a YAML file."""
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, Mapping):
            raise ValueError(f"`path` must name a YAML file of `key: value` lines, but {path} holds {values!r}.")
        return cls.from_dict(values, str(path))


class ShapesPictures(Dataset):
    """Pictures of the shapes world: few things, many things and full grids, all sizes, backgrounds and styles.

    A picture depends on `seed` and its index alone. Sizes change every `RUN` pictures, so that a batch of as many,
    taken in order, has one size. Combinations of `HELD_OUT` never occur.

    Args:
        small_share (`float`): share of the runs whose pictures are of `SMALL` instead of a bucket's size: they cost
            little, and many updates are what the decoder needs.
    """

    RUN = 8
    SMALL = (2, 2)  # rows and columns

    def __init__(self, seed: int, length: int, *, small_share: float = 0.0):
        self.seed = seed
        self.length = length
        self.small_share = small_share

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene of a picture."""
        run = index // self.RUN
        if random.Random(f"{self.seed}-run-{run}").random() < self.small_share:
            rows, columns = self.SMALL
        else:
            _, height, width = BUCKETS[run % len(BUCKETS)]
            rows, columns = height // CELL, width // CELL
        rng = random.Random(f"{self.seed}-{index}")
        # Few things as the language model will see them; many, because most cells are bare otherwise.
        most = rng.choice((min(MAX_THINGS, rows * columns), rows * columns))
        least = rng.choice((0, most))
        scene = random_scene(rng, size=(rows, columns), num_things=rng.randint(least, most), style=rng.choice(STYLES))
        return scene.with_things(
            [thing for thing in scene.things if (thing.shape, thing.color, scene.place_of(thing)) not in HELD_OUT]
        )

    def __getitem__(self, index: int) -> Image.Image:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return render(self.scene(index))


class PictureFolder(Dataset):
    """The pictures in a folder and the folders in it, brought to one size, in an order that depends on `seed`.

    Each time round the order is another. The picture is scaled until it covers `size` (height, width in pixels) and
    its middle is cut out.
    """

    def __init__(self, folder: str | os.PathLike, size: Sequence[int], seed: int, length: int, *, factor: int):
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
        if not self.paths:
            raise ValueError(
                f"`data` must be 'shapes' or a folder with pictures ({', '.join(sorted(PICTURE_ENDINGS))}), but there "
                f"is none in {str(folder)!r}."
            )
        if len(size) != 2 or any(side <= 0 or side % factor for side in size):
            raise ValueError(f"`size` must be height and width, multiples of {factor} pixels, but got {list(size)}.")
        self.height, self.width = size
        self.seed = seed
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Image.Image:
        if not 0 <= index < self.length:
            raise IndexError(index)
        turn, place = divmod(index, len(self.paths))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.paths))
        with Image.open(self.paths[order[place]]) as file:
            image = file.convert("RGB")
        scale = max(self.height / image.height, self.width / image.width)
        width, height = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        left, top = (width - self.width) // 2, (height - self.height) // 2
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + self.width, top + self.height))


class VQCollator:
    """Pictures of any sizes to `pixel_values`: a list with one tensor `(batch, 3, height, width)` for each size.

    Values are RGB in `[-1, 1]`, fp32. Sides must be multiples of `factor` pixels.
    """

    def __init__(self, factor: int):
        self.factor = factor

    def __call__(self, pictures: Sequence[Image.Image]) -> dict[str, list[torch.Tensor]]:
        by_size: dict[tuple[int, int], list[np.ndarray]] = {}
        for picture in pictures:
            if picture.width % self.factor or picture.height % self.factor:
                raise ValueError(
                    f"`pictures` must have sides that are multiples of {self.factor} pixels, but one is "
                    f"{picture.height}x{picture.width} (height x width). Resize or crop it first."
                )
            by_size.setdefault(picture.size, []).append(np.asarray(picture.convert("RGB")))
        # Contiguous: GroupNorm's backward pass takes many times as long in the channels-last layout on a CPU.
        stacks = [torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy()) for arrays in by_size.values()]
        return {"pixel_values": [stack.float() / 127.5 - 1 for stack in stacks]}


__all__ = ["PictureFolder", "ShapesPictures", "VQCollator", "VQTrainingConfig"]
