# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint that comes with the package, and loading a checkpoint the way the commands do."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from .configuration_wallaroo import WallarooConfig
from .modeling_wallaroo import WallarooForConditionalGeneration
from .processing_wallaroo import WallarooProcessor

TINY = Path(__file__).parent / "tiny"


def tiny_path() -> Path:
    """Folder of the embedded checkpoint `wallaroo-tiny`, which knows the shapes world; a `FileNotFoundError` where the
    package was installed without it."""
    if not (TINY / "config.json").is_file():
        raise FileNotFoundError(
            f"This install of transformers-wallaroo has no embedded checkpoint: there is no {TINY / 'config.json'}. "
            "Install the package again, train the checkpoint with `make tiny`, or name one of your own."
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
    # What begins like this is no name on the Hub, which would be told in words that do not help.
    if str(path).startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise ValueError(f"`checkpoint` must be a folder or the name of one on the Hub, but there is no folder {path}.")
    config = AutoConfig.from_pretrained(path)
    if not isinstance(config, WallarooConfig):
        raise ValueError(
            f"`checkpoint` must be a Wallaroo, but {path} is of the type {config.model_type!r}. A Qwen2.5-VL becomes "
            "one by conversion/init_from_qwen.py, the released weights by conversion/convert_checkpoint.py."
        )
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options: dict[str, Any] = {"dtype": dtype or (torch.float32 if target.type == "cpu" else "auto")}
    model = WallarooForConditionalGeneration.from_pretrained(path, **options).to(target).eval()
    return model, WallarooProcessor.from_pretrained(path)


__all__ = ["load_checkpoint", "tiny_path"]
