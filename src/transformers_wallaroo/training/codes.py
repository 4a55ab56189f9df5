# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Cached codes: what the VQ tokenizer made of the images of a data set, once; `encoding.py` writes it.

A folder of codes holds:

- `shard-00003-of-00010.parquet`: the samples, for any Parquet reader: `index` in the data set that was encoded,
  `prompt`, `height` and `width` in pixels, `codes`, and `fields`, the sample's other fields as JSON; for edits also
  `source_image` (PNG) and `source_latents`. A file of this name is whole.
- `shard-00003-of-00010.left-out.json`: samples of that shard that were dropped or skipped, where there are any.
- `black-64x48.safetensors`: for edits, the latents of a black picture of each size (height x width), which the
  unconditional sample has as its source.
- `encoding.json`: what was encoded, how, and how much of it.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch.utils.data import Dataset

from ..image_grid_wallaroo import ImageTask, get_task
from ..modeling_wallaroo_vq import WallarooVQModel
from .sources import BYTES_A_TOKEN

ENCODING = "encoding.json"
# Settings of a tokenizer that the shapes of its weights do not tell, and that its codes depend on.
ENCODER_SETTINGS = ("norm_num_groups", "cell_wise")


def tokenizer_hash(vq_model: WallarooVQModel) -> str:
    """SHA-256 of what codes and latents depend on: the weights of the encoder and of the codebook, and how they are
    used."""
    digest = hashlib.sha256(str([getattr(vq_model.config, name) for name in ENCODER_SETTINGS]).encode())
    for name, tensor in sorted(vq_model.state_dict().items()):
        if name.split(".")[0] not in ("decoder", "post_quant_conv"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def shards_of(folder: Path, samples: int, shard_size: int) -> list[tuple[Path, range]]:
    """Path of each shard, and the indices of its samples in the data set that is encoded."""
    starts = range(0, samples, shard_size)
    names = [f"shard-{number:05d}-of-{len(starts):05d}.parquet" for number in range(len(starts))]
    return [
        (folder / name, range(start, min(start + shard_size, samples)))
        for name, start in zip(names, starts, strict=True)
    ]


def black_path(folder: Path, height: int, width: int) -> Path:
    """File of the latents of a black picture of this size in pixels."""
    return folder / f"black-{height}x{width}.safetensors"


class EncodedDataset(Dataset):
    """The samples of a folder of codes, for `WallarooDataCollator`.

    A sample is a dict: `task`, `prompt`, `height` and `width` in pixels, `codes`, int64 `(grid_height, grid_width)`,
    and the other plain fields that it had; of an edit also `source_image`, and `source_latents` and `black_latents`,
    float32 `(cells, embed_dim)` in raster order.

    The samples are not held in memory: `datasets` keeps them in its cache as Arrow files, mapped into memory. Workers
    may share one.

    Args:
        path: folder that `encode_dataset` has written, all of it.
        start, length: which of its samples; from `start` to the end by default.
        task: raises where the folder is of another one.
        cache_dir: for `datasets`, in place of its own.
    """

    def __init__(
        self,
        path: str | Path,
        start: int = 0,
        length: int | None = None,
        *,
        task: str | None = None,
        cache_dir: str | None = None,
    ):
        folder = Path(path)
        self.encoding = read_encoding(folder)
        known = get_task(self.encoding["task"])
        assert isinstance(known, ImageTask)
        self.task = known
        if task is not None and task != self.task.name:
            raise ValueError(
                f"`path` {str(folder)!r} holds codes for {self.task.name!r}, but they are wanted for {task!r}."
            )
        samples = self.encoding["samples"]
        if not samples:
            raise ValueError(f"`path` {str(folder)!r} holds no samples: all were left out, see its {ENCODING}.")
        if not 0 <= start < samples:
            raise ValueError(f"`start` must be in [0, {samples}), the samples of {str(folder)!r}, but got {start!r}.")
        length = samples - start if length is None else length
        if not 0 < length <= samples - start:
            raise ValueError(
                f"`length` must be in [1, {samples - start}], for {str(folder)!r} has {samples} samples and `start` is "
                f"{start}, but got {length!r}."
            )
        shards = [str(shard) for shard, _ in _existing_shards(folder, self.encoding)]
        # `datasets` cannot read a file without rows, as a shard is whose samples were all left out.
        files = [shard for shard in shards if pq.read_metadata(shard).num_rows]
        rows = datasets.Dataset.from_parquet(files, cache_dir=cache_dir)
        assert isinstance(rows, datasets.Dataset)
        self._rows = rows.select(range(start, start + length)).with_format("arrow")
        self._black = _load_black(folder, self.encoding) if self.task.has_source else {}

    @property
    def vq_hash(self) -> str:
        """`tokenizer_hash` of the tokenizer that made the codes."""
        return self.encoding["vq_hash"]

    def check_tokenizer(self, vq_model: WallarooVQModel) -> None:
        """Raises where the codes are those of another tokenizer, and would mean other pictures to this one."""
        found = tokenizer_hash(vq_model)
        if found != self.vq_hash:
            raise ValueError(
                f"The codes for {self.task.name!r} were made by another VQ tokenizer ({self.vq_hash[:12]}) than the "
                f"model's ({found[:12]}). Encode the data set anew with the model's own, or train the model that the "
                "codes were made for."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be in [{-len(self)}, {len(self)}), but got {index}.")
        table = self._rows[index % len(self)]
        row = {name: table[name][0] for name in table.column_names}
        height, width = row["height"].as_py(), row["width"].as_py()
        factor = self.encoding["downsample_factor"]
        sample = {
            "task": self.task.name,
            "prompt": row["prompt"].as_py(),
            "height": height,
            "width": width,
            "codes": row["codes"].values.to_numpy().astype(np.int64).reshape(height // factor, width // factor),
            **json.loads(row["fields"].as_py()),
        }
        if self.task.has_source:
            sample["source_image"] = Image.open(io.BytesIO(row["source_image"].as_py()["bytes"]))
            latents = row["source_latents"].values.to_numpy().reshape(-1, self.encoding["embed_dim"])
            sample["source_latents"] = latents.copy()  # for what is mapped into memory cannot be written to
            sample["black_latents"] = self._black[height, width].copy()
        return sample

    def length_of(self, index: int) -> int:
        """About how many tokens a sample has, without reading its pictures and latents."""
        if "_lengths" not in self.__dict__:
            table = self._rows.select_columns(["height", "width", "prompt"])[:]
            cells = table["height"].to_numpy() * table["width"].to_numpy() // self.encoding["downsample_factor"] ** 2
            prompts = pc.binary_length(table["prompt"]).to_numpy() // BYTES_A_TOKEN
            self._lengths = (1 + self.task.has_source) * cells + prompts
        return int(self._lengths[index])


def read_encoding(folder: Path) -> dict[str, Any]:
    """What `encoding.json` holds; a `ValueError` where there is none, or where the encoding is not done."""
    if not (folder / ENCODING).is_file():
        raise ValueError(f"`path` must be a folder that `encode_dataset` wrote, but {str(folder)!r} has no {ENCODING}.")
    encoding = json.loads((folder / ENCODING).read_text(encoding="utf-8"))
    _existing_shards(folder, encoding)
    if not encoding["complete"]:
        raise ValueError(f"`path` {str(folder)!r} was not encoded to its end. Encode again: it goes on where it was.")
    return encoding


def _existing_shards(folder: Path, encoding: dict[str, Any]) -> list[tuple[Path, range]]:
    shards = shards_of(folder, encoding["source_samples"], encoding["shard_size"])
    missing = [path.name for path, _ in shards if not path.is_file()]
    if missing:
        raise ValueError(
            f"`path` {str(folder)!r} lacks {len(missing)} of its {len(shards)} shards, such as {missing[0]!r}. Encode "
            "again: it goes on where it was, and makes only those that are missing."
        )
    return shards


def _load_black(folder: Path, encoding: dict[str, Any]) -> dict[tuple[int, int], np.ndarray]:
    """Latents of a black picture of each (height, width) in pixels, float32 `(cells, embed_dim)`."""
    sizes = [tuple(int(side) for side in size.split("x")) for size in encoding["sizes"]]
    return {(height, width): load_file(black_path(folder, height, width))["latents"] for height, width in sizes}


__all__ = ["EncodedDataset", "tokenizer_hash"]
