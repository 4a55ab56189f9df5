# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples a second that the data loader reads from tars, by its number of workers, beside those that the small-scale
trainer takes.

The tars are made first: pictures of the shapes world, enlarged and with some noise, as JPEG with captions, in the
layout of BLIP3o-60k. A sample is found, read, decoded, sized and tokenized, and collated into batches, as in training.
The trainer's step is forward, backward, clipping and AdamW of `wallaroo-tiny` on batches that are there already.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import synchronize, write_figures
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.shapes import ShapesDataset
from transformers_wallaroo.training.collator import WallarooDataCollator
from transformers_wallaroo.training.mixture import MixtureDataset
from transformers_wallaroo.training.sources import open_source
from transformers_wallaroo.training.stages import freeze

PARTS = ["language_model", "generation_adapter", "generation_head"]
NOISE = 12  # of 255; without any, JPEG files would be far smaller than those of photographs


def write_tars(folder: Path, samples: int, side: int, shards: int = 4) -> int:
    """Writes the tars and returns their bytes."""
    made = ShapesDataset("generate", 5, samples)
    random = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            numbers = range(shard, samples, shards)
            for number in tqdm(numbers, desc=f"writing tar {shard}", unit="sample", leave=False):
                sample = made[number]
                picture = sample["image"].resize((side, side), Image.Resampling.BICUBIC)
                pixels = np.asarray(picture, np.int16) + random.integers(-NOISE, NOISE + 1, (side, side, 3))
                file = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
                for ending, content in (("jpg", file.getvalue()), ("txt", sample["prompt"].encode())):
                    info = tarfile.TarInfo(f"{number:08d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return sum(file.stat().st_size for file in folder.iterdir())


def loader_speed(dataset: MixtureDataset, collator: Any, workers: int, batch_size: int) -> float:
    """Samples a second, from the first batch on: workers take a while to start, once a run."""
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collator)
    batches = iter(loader)
    next(batches)
    started, count = time.perf_counter(), 0
    for _ in batches:
        count += batch_size
    return count / (time.perf_counter() - started)


def trainer_speed(model: Any, batches: Sequence[dict[str, torch.Tensor]], batch_size: int, steps: int) -> float:
    """Samples a second of training steps on batches that are in memory."""
    freeze(model, PARTS)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for number in range(steps + 1):
        if number == 1:  # the first step makes the optimizer's state
            synchronize()
            started = time.perf_counter()
        batch = {name: value.to(model.device) for name, value in batches[number % len(batches)].items()}
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize()
    return steps * batch_size / (time.perf_counter() - started)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=600, help="in the tars (default: %(default)s)")
    parser.add_argument("--side", type=int, default=512, help="of the JPEG files, in pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="of the trainer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the trainer (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args(arguments)
    if options.samples < 2 * options.batch_size:
        parser.error("--samples must be two batches or more")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    model, processor = load_checkpoint(device=options.device)
    collator = WallarooDataCollator(processor, drop=False)
    with tempfile.TemporaryDirectory() as folder:
        size = write_tars(Path(folder), options.samples, options.side)
        source = open_source("generate", {"webdataset": {"path": folder}}, options.samples)
        length = options.samples // options.batch_size * options.batch_size
        dataset = MixtureDataset({"generate": source}, {"generate": 1}, length)
        loaded = {
            workers: round(loader_speed(dataset, collator, workers, options.batch_size), 1)
            for workers in tqdm(options.workers, desc="loading", unit="setting", leave=False)
        }
        starts = range(0, min(length, 4 * options.batch_size), options.batch_size)
        batches = [collator([dataset[start + at] for at in range(options.batch_size)]) for start in starts]
    trained = trainer_speed(model, batches, options.batch_size, options.steps)
    write = sys.stdout.write
    write(f"JPEG of {options.side} x {options.side}, {size // options.samples / 1000:.0f} kB a sample\n")
    for workers, speed in loaded.items():
        write(f"loader, {workers} workers {speed:8.1f} samples/s, {speed / trained:5.2f} times the trainer\n")
    write(f"trainer           {trained:8.1f} samples/s\n")
    figures = {
        "loader_samples_per_second": loaded,
        "trainer_samples_per_second": round(trained, 1),
        "bytes_per_sample": size // options.samples,
    }
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
