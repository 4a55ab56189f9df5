# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs one stage from its recipe: model, data, trainer, resumption and the final checkpoint."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_wallaroo import WallarooConfig
from ..image_grid_wallaroo import TASKS
from ..processing_wallaroo import WallarooProcessor
from .collator import WallarooDataCollator
from .mixture import MixtureDataset, mix
from .optimizer import muon_with_adamw
from .resuming import check_recipe, keep_recipe, last_whole_checkpoint, recipe_changes, remove_run
from .sources import open_source
from .stages import StageConfig, freeze, load_model, load_processor, part_of
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

    A run that was stopped, however, goes on from its last whole checkpoint; one that is done is not done again. The
    recipe is kept in `output/recipe.yaml`, and a run goes on with no other.

    Args:
        config: the recipe.
        resume: `False` removes the checkpoints and the final folder of an earlier run in `output`, and trains anew.

    Returns:
        The folder of the checkpoint.
    """
    output = Path(config.output)
    final = output / FINAL
    if resume and any((final / name).is_file() for name in ("config.json", "adapter_config.json")):
        changes = "".join(f" It was trained otherwise: {change}." for change in recipe_changes(config, output))
        logger.warning(
            f"{final} is there already: this stage is done.{changes} To train it anew, give `--no-resume` "
            "(`resume=False`) or another `output`."
        )
        return final
    if resume:
        check_recipe(config, output)
    trainer = build_trainer(config)
    # One process removes what is broken or not wanted before the others look.
    with trainer.args.main_process_first(local=False):
        if trainer.args.process_index == 0 and not resume:
            remove_run(output, [final, _partial(final)], init=config.init, vq_model=config.vq_model)
        checkpoint = last_whole_checkpoint(output)
        if trainer.args.process_index == 0:
            keep_recipe(config, output)
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
    processor = load_processor(config)
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
    collator = build_collator(processor, config, model.config)
    evaluation = dict(config.evaluation)
    held_out = evaluation.pop("samples", 10 * config.batch_size)
    evaluate = mixture(evaluation, config.tasks, held_out, config.seed + 1, held_out=True) if evaluation else None
    for source in [*train.sources.values(), *(evaluate.sources.values() if evaluate is not None else ())]:
        if hasattr(source, "check_tokenizer"):
            source.check_tokenizer(part_of(model, "vq_model"))
    return WallarooTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluate,
        data_collator=collator,
        processing_class=processor,
        optimizer_cls_and_kwargs=optimizer(config),
        preview_samples=previews(evaluate, config.previews),
    )


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


def optimizer(config: StageConfig) -> tuple[Any, dict[str, Any]] | None:
    """What `Trainer` makes the optimizer of; `None` is its own AdamW."""
    if config.optimizer == "adamw":
        return None
    return muon_with_adamw, {"lr": config.learning_rate, "weight_decay": config.weight_decay}


def mixture(
    entries: dict[str, Any], tasks: dict[str, int], length: int, seed: int, *, held_out: bool = False
) -> MixtureDataset:
    """The mixed data set of a recipe's `data` or `evaluation`.

    The seed gives the order of each task's sources. The data of sources without end do not depend on it.
    """
    ratio = {task: count for task, count in tasks.items() if task in entries}
    a_turn = sum(ratio.values())
    sources = {
        task: open_source(
            task,
            entries[task],
            -(-length // a_turn) * count,
            seed=HELD_OUT_SEED if held_out else 1,
            order_seed=mix(seed, list(TASKS).index(task)),
        )
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
        decision_probability=config.decision_probability,
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


def save_final(trainer: WallarooTrainer, final: Path) -> None:
    """Model and processor in one folder, whole or not at all."""
    partial = _partial(final)
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


def _partial(final: Path) -> Path:
    """Where the final folder is written."""
    return final.with_name(f"{final.name}.partial")


__all__ = ["build_trainer", "run_stage"]
