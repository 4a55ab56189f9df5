# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Released files, read without running code of theirs and a tensor at a time."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import Qwen2_5_VLConfig

Loader = Callable[[], torch.Tensor]


class CheckpointError(ValueError):
    """A file that is not what it should be; the message names it, what was found and what was expected."""


def load_pickled(path: str | os.PathLike, entry: str) -> dict[str, torch.Tensor]:
    """The state dict under `entry` of a torch file, memory-mapped and without running any pickled code."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file.")
    try:
        # mmap needs the zip format that torch has written since 1.6; an older file is read into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(
            f"{path} cannot be read as a torch checkpoint of plain tensors; it is truncated, or something else: {error}"
        ) from error
    state = content.get(entry, content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path} should hold a state dict under {entry!r}, but holds {found}.")
    stripped: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or strip_prefixes(key) in stripped:
            raise CheckpointError(f"{path} has the key {key!r} twice, or it is no string: expected names of weights.")
        stripped[strip_prefixes(key)] = value
    return stripped


def strip_prefixes(key: str) -> str:
    """The key without the `module.` that DDP and DeepSpeed may put before it, once or more."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def read_base(folder: str | os.PathLike) -> dict[str, Any]:
    """The config of a Qwen2.5-VL folder, checked to be one."""
    config_path = Path(folder) / "config.json"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no readable config.json: expected a Qwen2.5-VL folder ({error})."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{config_path} is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{config_path} holds a {type(config).__name__}, but expected an object.")
    if config.get("model_type") != "qwen2_5_vl":
        raise CheckpointError(
            f"{config_path} is of model type {config.get('model_type')!r}, but expected 'qwen2_5_vl'."
        )
    try:
        Qwen2_5_VLConfig.from_dict(dict(config))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_path} describes no Qwen2.5-VL: {error}") from error
    return config


def safetensors_loaders(folder: str | os.PathLike) -> dict[str, tuple[Loader, torch.Size]]:
    """For each tensor of the safetensors files of a folder: a function that reads it, and its shape."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors files.")
    loaders: dict[str, tuple[Loader, torch.Size]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for key in reader.keys():  # noqa: SIM118, a safetensors reader is no mapping
                    if key in loaders:
                        raise CheckpointError(f"{folder} has {key} in more than one *.safetensors file.")
                    shape = torch.Size(reader.get_slice(key).get_shape())
                    loaders[key] = partial(_read_tensor, file, key), shape
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read as safetensors; it is truncated or foreign: {error}."
            ) from error
    return loaders


def _read_tensor(file: Path, key: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as reader:
        return reader.get_tensor(key)


def state_dict_loaders(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[Loader, torch.Size]]:
    """The same for a state dict in (mapped) memory."""
    return {key: (partial(_same, value), value.shape) for key, value in state.items()}


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
