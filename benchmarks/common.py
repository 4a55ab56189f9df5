# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: models of a given size, inputs for them, timing in turns, and the figures' file."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

import transformers_wallaroo
from transformers_wallaroo import WallarooConfig, WallarooForConditionalGeneration, WallarooVQConfig
from transformers_wallaroo.image_grid_wallaroo import EDIT, TokenType

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The language model of `decode.py` and its relatives.
DIMENSIONS = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1408,
    "vocab_size": 152064,
}
# Ids beside text and codes, at the end of the vocabulary.
ROW_END, PIXEL_START = 152000, 152001


def make_model(
    dimensions: Mapping[str, int],
    num_embeddings: int,
    dtype: torch.dtype,
    *,
    device: str | torch.device = "cpu",
    vision: Mapping[str, int] | None = None,
    vq: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> WallarooForConditionalGeneration:
    """A model of random weights, made where it is to run; the vision tower and the VQ networks are small unless
    told."""
    head_dim = dimensions["hidden_size"] // dimensions["num_attention_heads"]
    section = [head_dim // 8, head_dim * 3 // 16, head_dim // 2 - head_dim // 8 - head_dim * 3 // 16]
    config = WallarooConfig(
        text_config={
            **dimensions,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "fullatt_block_indexes": [0],
            **(vision or {}),
            "out_hidden_size": dimensions["hidden_size"],
        },
        vq_config=WallarooVQConfig(
            **{
                "num_embeddings": num_embeddings,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1, 1],
                "num_res_blocks": 1,
                "latent_channels": 32,
                **(vq or {}),
            }
        ).to_dict(),
        eol_token_id=min(ROW_END, dimensions["vocab_size"] - 2),
        pixel_start_token_id=min(PIXEL_START, dimensions["vocab_size"] - 1),
        generate_image_pad_token_id=0,
        image_token_id=1,
        video_token_id=2,
        vision_start_token_id=3,
        vision_end_token_id=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = WallarooForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    model.model.vq_model.float()
    return model.to(dtype).eval()


def make_inputs(
    model: WallarooForConditionalGeneration,
    num_images: int,
    grid: tuple[int, int],
    prompt_length: int,
    *,
    edit: bool = False,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """What the processor would return for some prompts of so many random tokens, the unconditional one three tokens
    shorter; with `edit` a source of noise of the image's size."""
    generator = torch.Generator().manual_seed(seed)
    device = model.execution_device
    inputs: dict[str, torch.Tensor] = {}
    for prefix, length in (("", prompt_length), ("unconditional_", prompt_length - 3)):
        count = num_images if not prefix else 1
        ids = torch.randint(10, min(ROW_END, model.config.text_vocab_size) - 10, (count, length), generator=generator)
        ids = ids.expand(num_images, -1).clone()
        types = torch.zeros_like(ids)
        if edit:
            parts = _source(model, num_images, grid, generator, black=bool(prefix))
            ids = torch.cat([parts.pop("ids"), ids], dim=1)
            types = torch.cat([parts.pop("types"), types], dim=1)
            inputs.update({f"{prefix}{name}": value for name, value in parts.items()})
        inputs[f"{prefix}input_ids"], inputs[f"{prefix}mm_token_type_ids"] = ids, types
        inputs[f"{prefix}attention_mask"] = torch.ones_like(ids)
    inputs["target_grid"] = torch.tensor([grid] * num_images)
    inputs["task_ids"] = torch.full((num_images,), EDIT.index if edit else 1)
    return {name: value.to(device) for name, value in inputs.items()}


def _source(model, num_images, grid, generator, *, black: bool) -> dict[str, torch.Tensor]:
    """Placeholders and pixels of a source: cells with row ends, then patches of about the same picture."""
    config, factor = model.config, model.model.vq_model.downsample_factor
    height, width = grid
    cells = ([config.image_token_id] * width + [config.eol_token_id]) * height
    types = ([int(TokenType.SOURCE_CELL)] * width + [0]) * height
    vision = config.vision_config
    patches = [side * factor // vision.patch_size // 2 * 2 for side in grid]
    seen = patches[0] * patches[1] // vision.spatial_merge_size**2
    ids = [config.pixel_start_token_id, *cells, config.vision_start_token_id, *[config.image_token_id] * seen]
    types = [0, *types, 0, *[int(TokenType.IMAGE)] * seen]
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = 2 * torch.rand(num_images, 3, height * factor, width * factor, generator=generator) - 1
    patch_values = torch.randn(num_images * patches[0] * patches[1], values, generator=generator)
    return {
        "ids": torch.tensor([ids] * num_images),
        "types": torch.tensor([types] * num_images),
        "source_pixel_values": torch.full_like(pixels, -1) if black else pixels,
        "source_grid": torch.tensor([grid] * num_images),
        "pixel_values": torch.zeros_like(patch_values) if black else patch_values,
        "image_grid_thw": torch.tensor([[1, *patches]] * num_images),
    }


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_in_turns(
    variants: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after rounds that are not counted; in a round they take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tqdm(total=(warm_up + rounds) * len(variants), unit="run", leave=False) as bar:
        for number in range(warm_up + rounds):
            for name, run in variants.items():
                bar.set_description(name)
                synchronize()
                started = time.perf_counter()
                run()
                synchronize()
                if number >= warm_up:
                    times[name].append(time.perf_counter() - started)
                bar.update()
    return times


def ratio(times: Mapping[str, list[float]], slower: str, faster: str) -> float:
    """How many times as fast `faster` is: the median of the rounds' own ratios."""
    return round(statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True)), 3)


def read_bandwidth(device: torch.device, megabytes: int = 512) -> float:
    """Bytes a second at which memory is read: the best of several sums over more than any cache holds."""
    values = torch.ones(megabytes * 2**20 // 4, dtype=torch.float32, device=device)
    best = 0.0
    for _ in range(7):
        synchronize()
        started = time.perf_counter()
        values.sum()
        synchronize()
        best = max(best, values.nbytes / (time.perf_counter() - started))
    return best


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes of tensors at once, above those before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def about(device: str | torch.device) -> dict[str, Any]:
    """The machine and the versions that figures were seen with."""
    machine: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.device(device).type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    versions = {each.__name__: each.__version__ for each in (torch, transformers, transformers_wallaroo)}
    return {"machine": machine, "versions": versions}


def write_figures(
    options: argparse.Namespace, figures: Mapping[str, Any], *, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Figures with the settings, but for those `without`, and with the machine and the versions; also as JSON where the
    options name a file, which is written whole or not at all."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("json", *without)
    }
    result = {**figures, "settings": settings, **about(getattr(options, "device", "cpu"))}
    if options.json is not None:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    return result
