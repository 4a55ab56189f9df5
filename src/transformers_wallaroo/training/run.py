# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs one stage from its recipe: model, data, trainer, resumption and the final checkpoint."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..configuration_wallaroo import WallarooConfig
from ..processing_wallaroo import WallarooProcessor
from .collator import WallarooDataCollator
from .mixture import MixtureDataset
from .sources import open_source
from .stages import StageConfig, freeze, load_model, prepare_processor
from .trainer import WallarooTrainer, WallarooTrainingArguments

logger = logging.get_logger(__name__)

FINAL = "final"
# transformers has come to call it by the other name.
CHECKPOINTING = next(
    entry.name
    for entry in dataclasses.fields(WallarooTrainingArguments)
    if entry.name in ("activation_checkpointing", "gradient_checkpointing")
)
# Seed of a held-out source without end, where the recipe names none: not that of training, which is 1.
HELD_OUT_SEED = 1001
# What `trainer` in a recipe may change of what is set for it here; the rest has keys of its own in the recipe.
ADJUSTABLE = (
    "save_total_limit",
    "eval_strategy",
    "per_device_eval_batch_size",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "group_by_length",
    "use_cpu",
    "report_to",
    "ddp_find_unused_parameters",
)


def run_stage(config: StageConfig, *, resume: bool = True) -> Path:
    """Trains a stage and writes its checkpoint to `output/final`, which `AutoModel` loads.

    A run that was stopped, however, goes on from its last whole checkpoint; one that is done is not done again.

    Returns:
        The folder of the checkpoint.
    """
    output = Path(config.output)
    final = output / FINAL
    if resume and any((final / name).is_file() for name in ("config.json", "adapter_config.json")):
        logger.warning(f"{final} is there already: this stage is done.")
        return final
    trainer = build_trainer(config)
    # One process removes what is broken before the others look.
    with trainer.args.main_process_first(local=False):
        checkpoint = last_whole_checkpoint(output) if resume else None
    if checkpoint is not None:
        logger.warning(f"Going on from {checkpoint}.")
    trainer.train(resume_from_checkpoint=checkpoint)
    save_final(trainer, final)
    return final


def build_trainer(config: StageConfig, **load_options: Any) -> WallarooTrainer:
    """The trainer of a stage, with everything that its recipe says."""
    if not config.data:
        raise ValueError("`data` must say where the samples of each task come from, but is empty.")
    args = training_arguments(config)
    processor = prepare_processor(WallarooProcessor.from_pretrained(config.init), config)
    if config.lora is None:
        model = load_model(config, **load_options)
        counts = freeze(model, config.train)
    else:
        from .lora import load_with_lora

        model, counts = load_with_lora(config, **load_options)
    if args.process_index == 0:
        parts = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
        logger.warning(f"Stage {config.stage} trains {parts}.")
    if config.gradient_checkpointing:
        # The embeddings of a frozen model need a gradient for the layers above them to have one.
        model.enable_input_require_grads()
    if config.compile:
        part_of(model, "language_model").compile(dynamic=True)
    samples_a_step = config.batch_size * args.gradient_accumulation_steps * args.world_size
    length = config.steps * samples_a_step
    train = mixture(config.data, config.tasks, length, config.seed)
    for source in train.sources.values():
        if hasattr(source, "check_tokenizer"):
            source.check_tokenizer(part_of(model, "vq_model"))
    collator = build_collator(processor, config, model.config)
    evaluation = dict(config.evaluation)
    held_out = evaluation.pop("samples", 10 * config.batch_size)
    evaluate = mixture(evaluation, config.tasks, held_out, config.seed + 1, held_out=True) if evaluation else None
    return WallarooTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluate,
        data_collator=collator,
        processing_class=processor,
        preview_samples=previews(evaluate, config.previews),
    )


def part_of(model: Any, name: str) -> torch.nn.Module:
    """The part of that name of a model, with or without peft around it."""
    return next(module for path, module in model.named_modules() if path.split(".")[-1] == name)


def training_arguments(config: StageConfig) -> WallarooTrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    on_cpu = not torch.cuda.is_available()
    values: dict[str, Any] = {
        "output_dir": config.output,
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation(processes),
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": config.scheduler,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        CHECKPOINTING: config.gradient_checkpointing,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if config.evaluation and config.eval_steps else "no",
        "eval_steps": config.eval_steps,
        "logging_steps": config.logging_steps,
        "dataloader_num_workers": config.workers,
        "dataloader_persistent_workers": config.workers > 0,
        "dataloader_pin_memory": not on_cpu,
        "loss_weights": config.loss_weights or None,
        "group_by_length": config.pack_length is None,
        "seed": config.seed,
        "use_cpu": on_cpu,
        "report_to": "none",
        "ddp_find_unused_parameters": False,
    }
    ours = sorted(set(config.trainer) & set(values) - set(ADJUSTABLE))
    if ours:
        raise ValueError(f"`trainer` has {', '.join(ours)}, for which the recipe has keys of its own. Use those.")
    values.update(config.trainer)
    try:
        return WallarooTrainingArguments(**values)
    except TypeError as error:
        known = [entry.name for entry in dataclasses.fields(WallarooTrainingArguments)]
        near = [close for name in config.trainer if name not in known for close in get_close_matches(name, known, n=1)]
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"`trainer` has what `WallarooTrainingArguments` does not take: {error}.{hint}") from error


def mixture(
    entries: dict[str, Any], tasks: dict[str, int], length: int, seed: int, *, held_out: bool = False
) -> MixtureDataset:
    """The mixed data set of a recipe's `data` or `evaluation`."""
    ratio = {task: count for task, count in tasks.items() if task in entries}
    a_turn = sum(ratio.values())
    sources = {
        task: open_source(task, entries[task], -(-length // a_turn) * count, seed=HELD_OUT_SEED if held_out else 1)
        for task, count in ratio.items()
    }
    return MixtureDataset(sources, ratio, length, seed=seed)


def build_collator(
    processor: WallarooProcessor, config: StageConfig, model_config: WallarooConfig
) -> WallarooDataCollator:
    return WallarooDataCollator(
        processor,
        mask_ratio=config.mask_ratio,
        unconditional_probability=config.unconditional_probability,
        pack_length=config.pack_length,
        code_offset=model_config.text_vocab_size,
        source_positions=model_config.source_positions,
        limits=config.limits,
        min_side=config.min_side,
        max_ratio=config.max_ratio,
        drop=True,
    )


def previews(dataset: MixtureDataset | None, count: int) -> Sequence[dict[str, Any]]:
    """The first samples of a data set that are images to be made."""
    if dataset is None or not count:
        return []
    samples = (dataset[index] for index in range(len(dataset)))
    chosen = []
    for sample in samples:
        if sample["task"] != "understand":
            chosen.append(sample)
        if len(chosen) == count:
            break
    return chosen


def last_whole_checkpoint(output: Path) -> str | None:
    """The last checkpoint of a run that was written to its end; what a kill left half-written is removed.

    `Trainer` writes `trainer_state.json` last.
    """
    while output.is_dir():
        checkpoint = get_last_checkpoint(str(output))
        if checkpoint is None:
            return None
        try:
            json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
            return checkpoint
        except (OSError, json.JSONDecodeError):
            logger.warning(f"{checkpoint} was not written to its end; it is removed.")
            shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def save_final(trainer: WallarooTrainer, final: Path) -> None:
    """Model and processor in one folder, whole or not at all."""
    partial = final.with_name(f"{final.name}.partial")
    if trainer.is_world_process_zero() and partial.exists():
        shutil.rmtree(partial)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        (partial / "training_args.bin").unlink(missing_ok=True)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    trainer.accelerator.wait_for_everyone()


__all__ = ["build_trainer", "last_whole_checkpoint", "run_stage"]
