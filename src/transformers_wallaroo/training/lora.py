# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Stages that adapt the language model (LoRA, QLoRA) and train adapters and heads whole, through peft."""

import dataclasses
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, set_seed
from transformers.utils import is_bitsandbytes_available, logging

from ..configuration_wallaroo import WallarooConfig
from ..modeling_wallaroo import UNQUANTIZED
from .stages import (
    EDITING_FROM_GENERATION,
    GENERATION_PARTS,
    TRAINABLE,
    StageConfig,
    check_init,
    freeze,
    load_parts,
    size_of,
)

logger = logging.get_logger(__name__)

# The linear layers of a layer of the language model.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUANTIZED = ("4bit", "8bit")
PARTS_OF_TASK = {"generate": GENERATION_PARTS, "edit": tuple(EDITING_FROM_GENERATION)}


def load_with_lora(config: StageConfig, **load_options: Any) -> tuple[PeftModel, dict[str, int]]:
    """The model of a stage with LoRA in its language model; the other parts of `train` are trained and saved whole.

    `config.lora` holds options of peft's `LoraConfig`. `target_modules` in it may name some of `TARGETS`; all are
    adapted by default. `quantize`, `"4bit"` or `"8bit"`, holds the frozen language model in that precision (QLoRA).

    Args:
        config: a stage whose `lora` is given.
        load_options: for `from_pretrained`.

    Returns:
        The model, and the number of trainable parameters of each part.
    """
    options = dict(config.lora or {})
    quantize = options.pop("quantize", None)
    if config.vq_model is not None:
        raise ValueError("`lora` cannot go with `vq_model`: an adapter does not hold another VQ tokenizer.")
    check_init(config.init)
    _check_settings(config, WallarooConfig.from_pretrained(config.init))
    whole = [part for part in config.train if part != "language_model"]
    adapter = lora_config(options, whole)
    if quantize is not None:
        load_options = {**load_options, "quantization_config": quantization(quantize)}
        load_options.setdefault("device_map", {"": _device()})
    model, new = load_parts(config, **load_options)
    used = {part for task in config.tasks for part in PARTS_OF_TASK.get(task, ())}
    lost = [part for part in new if part in used and part not in whole]
    if lost:
        raise ValueError(
            f"{', '.join(lost)} would be new, but `train` does not name them: an adapter holds what is trained alone, "
            "and they would be lost. Train them, or start from a checkpoint that has them."
        )
    if quantize is None:
        freeze(model, config.train)  # refuses parts that are not there
    else:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    set_seed(config.seed)
    tuned = get_peft_model(model, adapter)
    return tuned, trainable(tuned, config.train)


def _check_settings(config: StageConfig, base: WallarooConfig) -> None:
    """Raises where the recipe says another thing of the model than the checkpoint that its adapter will be put on."""
    for name in ("row_ends", "source_positions", "shared_image_head", "decides_edits"):
        wanted, own = getattr(config, name), getattr(base, name)
        if wanted is not None and wanted != own:
            raise ValueError(
                f"`lora` cannot go with `{name}` {wanted!r}, for it is {own!r} in {config.init}: an adapter does not "
                f"hold the model's config. Set `{name}` to {own!r}, or start from a checkpoint that has it otherwise."
            )


def lora_config(options: dict[str, Any], whole: Sequence[str]) -> LoraConfig:
    """peft's config for the language model's linear layers, and parts that are trained whole."""
    known = [entry.name for entry in dataclasses.fields(LoraConfig)]
    for name in options:
        if name not in known or name == "modules_to_save":
            near = get_close_matches(name, known, n=1)
            hint = " `train` says what is trained whole." if name in known else ""
            hint = f" Did you mean {near[0]!r}?" if near and not hint else hint
            raise ValueError(f"`lora` takes the options of peft's `LoraConfig` and `quantize`, but got {name!r}.{hint}")
    targets = options.get("target_modules", TARGETS)
    if isinstance(targets, str) or set(targets) - set(TARGETS) or not targets:
        raise ValueError(f"`lora.target_modules` must be a list, of {', '.join(TARGETS)}, but got {targets!r}.")
    pattern = rf"(?:.*\.)?language_model\.layers\.\d+\.\w+\.(?:{'|'.join(targets)})"
    return LoraConfig(**{**options, "target_modules": pattern, "modules_to_save": list(whole) or None})


def quantization(name: str) -> BitsAndBytesConfig:
    """How bitsandbytes holds the language model; everything else stays as it is."""
    if name not in QUANTIZED:
        raise ValueError(f"`lora.quantize` must be of {', '.join(map(repr, QUANTIZED))}, but got {name!r}.")
    if not is_bitsandbytes_available():
        raise ValueError(
            f"`lora.quantize` is {name!r}, which needs bitsandbytes (`pip install bitsandbytes`), and a CUDA GPU to be "
            "fast. Leave it out to adapt the model in full precision."
        )
    others = list(UNQUANTIZED)
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=others)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=others,
    )


def _device() -> str:
    """The device of this process: a quantized model is put there while it is loaded."""
    if not torch.accelerator.is_available():
        logger.warning("There is no GPU: quantized layers are slow on a CPU.")
        return "cpu"
    return f"{torch.accelerator.current_accelerator()}:{torch.accelerator.current_device_index()}"


def trainable(model: torch.nn.Module, parts: Sequence[str]) -> dict[str, int]:
    """Trainable parameters of each part."""
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[next(part for part in TRAINABLE if part in name.split("."))] += size_of(parameter)
    return counts


__all__ = ["load_with_lora", "lora_config", "quantization", "trainable"]
