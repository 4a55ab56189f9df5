# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint is: its parts, options and sizes, and the memory that it needs. No weights are read."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from ..configuration_wallaroo import WallarooConfig
from ..conversion.configs import DTYPES
from ..conversion.keys import expected_shapes
from ..embedded import check_is_wallaroo, check_path, checkpoint_hash, tiny_path, versions
from ..generation_wallaroo import IMAGE_DEFAULTS
from ..processing_wallaroo import WallarooProcessor
from .parts import count_parameters
from .sizes import write_size


def summarize(checkpoint: str | Path | None = None) -> dict[str, Any]:
    """Facts of a folder or a name on the Hub, by default the embedded checkpoint; all of it goes into JSON."""
    path = tiny_path() if checkpoint is None else checkpoint
    check_path(path)
    config = check_is_wallaroo(AutoConfig.from_pretrained(path), path)
    processor = WallarooProcessor.from_pretrained(path)
    folder = Path(path) if Path(path).is_dir() else None
    parameters = _parameters(config)
    return {
        "checkpoint": "wallaroo-tiny" if checkpoint is None else str(checkpoint),
        "path": None if folder is None else str(folder),
        "hash": checkpoint_hash(folder, quick=True) if folder is not None else getattr(config, "_commit_hash", None),
        "files": _files(folder),
        "dtype": None if config.dtype is None else str(config.dtype).removeprefix("torch."),
        "parameters": parameters,
        "options": _options(config, processor),
        "sizes": [write_size(int(height), int(width)) for _, height, width in processor.image_processor.buckets],
        "image_defaults": _image_defaults(path),
        "memory": _memory(config, processor, parameters),
        "made_with_transformers": config.transformers_version,
        "versions": versions(),
        "device": _device(),
    }


def _parameters(config: WallarooConfig) -> dict[str, int]:
    """Numbers in each part, and in all."""
    counts = count_parameters(expected_shapes(config).items())
    return {**counts, "total": sum(counts.values())}


def _files(folder: Path | None) -> dict[str, int]:
    """Bytes of each file of weights."""
    return {} if folder is None else {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


def _options(config: WallarooConfig, processor: WallarooProcessor) -> dict[str, Any]:
    """What differs from one training stage or ablation to another (docs/protocol.md)."""
    return {
        "stage": "3b or 4" if config.row_ends else "1, 2 or 3a",
        "row_ends": config.row_ends,
        "size_indicators": processor.size_indicators,
        "layout": processor.layout,
        "source_positions": config.source_positions,
        "shared_image_head": config.shared_image_head,
        "max_length": processor.max_length,
        "cell": processor.image_processor.downsample_factor,
        "codes": config.vq_config.num_embeddings,
        "code_width": config.vq_config.embed_dim,
        "layers": config.text_config.num_hidden_layers,
        "width": config.text_config.hidden_size,
    }


def _image_defaults(path: str | Path) -> dict[str, Any]:
    try:
        own = getattr(GenerationConfig.from_pretrained(path), "image_defaults", None) or {}
    except OSError:  # a checkpoint may have no generation config
        own = {}
    return {**IMAGE_DEFAULTS, **own}


def _memory(
    config: WallarooConfig, processor: WallarooProcessor, parameters: dict[str, int]
) -> dict[str, dict[str, int]]:
    """Bytes that inference needs at least, for each dtype of the weights: the weights, the embeddings of all codes that
    `optimize` tabulates, and the keys and values of a picture at the longest sequence with and without its prompt."""
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    vq = parameters["VQ tokenizer"]
    needs = {}
    for name, dtype in DTYPES.items():
        size = dtype.itemsize
        weights = (parameters["total"] - vq) * size + vq * torch.float32.itemsize
        tables = 2 * config.vq_config.num_embeddings * text.hidden_size * size
        slot = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * size
        picture = 2 * slot * min(processor.max_length, text.max_position_embeddings)
        needs[name] = {
            "weights": weights,
            "code_tables": tables,
            "a_picture": picture,
            "total": weights + tables + picture,
        }
    return needs


def _device() -> dict[str, Any]:
    """Where the commands compute unless told otherwise."""
    if torch.cuda.is_available():
        return {
            "type": "cuda",
            "name": torch.cuda.get_device_name(),
            "memory": torch.cuda.get_device_properties(0).total_memory,
        }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"type": "cpu", "threads": torch.get_num_threads(), "memory": memory}


__all__ = ["summarize"]
