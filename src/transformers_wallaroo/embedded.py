# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint that comes with the package, and loading a checkpoint the way the commands do."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from .configuration_wallaroo import WallarooConfig
from .modeling_wallaroo import WallarooForConditionalGeneration
from .processing_wallaroo import WallarooProcessor

TINY = Path(__file__).parent / "tiny"
CHUNK, PLACE = 2**24, 2**16  # bytes that are read at once, and those of a place where a few stand for all
# Files of a checkpoint that what it says and draws depends on.
CHECKPOINT_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def tiny_path() -> Path:
    """Folder of the embedded checkpoint `wallaroo-tiny`, which knows the shapes world; a `FileNotFoundError` where the
    package was installed without it."""
    if not (TINY / "config.json").is_file():
        raise FileNotFoundError(
            f"This install of transformers-wallaroo has no embedded checkpoint: there is no {TINY / 'config.json'}. "
            "Train it with `make tiny` and put it there with `python examples/package_tiny.py "
            "runs/tiny/stage-4-auto/final`, or name a checkpoint of your own."
        )
    return TINY


def load_checkpoint(
    checkpoint: str | Path | None = None, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[WallarooForConditionalGeneration, WallarooProcessor]:
    """Model, in evaluation mode, and processor of a checkpoint.

    Args:
        checkpoint: folder or Hub name; the embedded one by default.
        device: where the model goes; a GPU by default where there is one.
        dtype: of the weights. By default float32 on a CPU, which computes slowly in less, else that of the checkpoint.
    """
    path = tiny_path() if checkpoint is None else checkpoint
    check_path(path)
    target = usable_device(device)
    check_is_wallaroo(AutoConfig.from_pretrained(path), path)
    options: dict[str, Any] = {"dtype": dtype or (torch.float32 if target.type == "cpu" else "auto")}
    model = WallarooForConditionalGeneration.from_pretrained(path, **options).to(target).eval()
    return model, WallarooProcessor.from_pretrained(path)


def check_is_wallaroo(config: Any, path: str | Path) -> WallarooConfig:
    """The config of the checkpoint `path`, or a `ValueError` where it is another model's."""
    if not isinstance(config, WallarooConfig):
        raise ValueError(
            f"`checkpoint` must be a Wallaroo, but {path} is of the type {config.model_type!r}. A Qwen2.5-VL becomes "
            "one by `wallaroo init`, the released weights by `wallaroo convert`."
        )
    return config


def checkpoint_hash(checkpoint: str | Path, *, quick: bool = False) -> str:
    """SHA-256 of a checkpoint's weights, configs and tokenizer; of one on the Hub, of the files in the cache.

    Args:
        quick: 16 hexadecimal digits without reading all of the weights: names, sizes, and 64 KiB at each of 17 places
            of a file, its first and last among them. It tells a checkpoint from others of another training, but not
            always from one in which a few weights were changed.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(checkpoint), allow_patterns=list(CHECKPOINT_FILES)))
    files = sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)})
    if not files:
        raise ValueError(f"`checkpoint` must be the folder of one, but {folder} has no safetensors and no JSON files.")
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if quick:
                for place in range(17):
                    file.seek(max(size - PLACE, 0) * place // 16)
                    digest.update(file.read(PLACE))
            else:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()[: 16 if quick else None]


def versions() -> dict[str, str]:
    """Of what the numbers of a run depend on."""
    names = ("torch", "transformers", "transformers-wallaroo")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def check_path(path: str | Path) -> None:
    """Raises a `ValueError` for a folder that is not there, and for one that holds an adapter alone."""
    # What looks like this is no name on the Hub, which would be told in words that do not help.
    if (str(path).startswith(("/", ".", "~")) or str(path).count("/") > 1) and not Path(path).is_dir():
        raise ValueError(f"`checkpoint` must be a folder or the name of one on the Hub, but there is no folder {path}.")
    if (Path(path) / "adapter_config.json").is_file() and not (Path(path) / "config.json").is_file():
        raise ValueError(
            f"`checkpoint` must be a whole checkpoint, but {path} holds a LoRA adapter. Merge it with the model that "
            "it was trained on: `PeftModel.from_pretrained(model, adapter).merge_and_unload()`; save that model and "
            "the processor, and take their folder."
        )


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device, where torch can put something on it; a GPU by default where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # A torch without CUDA says so by an `AssertionError`.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"`device` must be one that this torch can use, such as 'cpu', or 'cuda' where there are a GPU and a torch "
            f"built for it, but got {str(device)!r}: {reason}."
        ) from error


__all__ = [
    "check_is_wallaroo",
    "check_path",
    "checkpoint_hash",
    "load_checkpoint",
    "tiny_path",
    "usable_device",
    "versions",
]
