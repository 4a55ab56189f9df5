# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A very small Wallaroo of the shapes world, its samples and batches, for the tests of training."""

from pathlib import Path
from typing import Any

import torch

from transformers_wallaroo import WallarooConfig, WallarooForConditionalGeneration, WallarooVQConfig
from transformers_wallaroo.shapes import ShapesDataset
from transformers_wallaroo.training.collator import WallarooDataCollator
from transformers_wallaroo.training.tiny import build_config, build_processor
from transformers_wallaroo.training.trainer import WallarooTrainer, WallarooTrainingArguments

SMALL_VQ = {
    "embed_dim": 8,
    "num_embeddings": 64,
    "latent_channels": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 1, 1],
    "num_res_blocks": 1,
    "num_patches": 32,
}
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_window_layers": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    "layer_types": ["full_attention"] * 2,
}
SMALL_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0],
}
TASKS = ("understand", "generate", "edit")
# Every part that stage 4 trains, of a model whose text head is its embedding table.
PARTS_4 = [
    "language_model",
    "generation_adapter",
    "generation_head",
    "editing_adapter",
    "editing_head",
    "source_adapter",
]


def build_small(
    *, seed: int = 0, tied: bool = True, text: dict[str, Any] | None = None, vq: dict[str, Any] | None = None
):
    """Model with random weights, far enough from zero to tell inputs apart, and processor."""
    processor = build_processor()
    values = build_config(processor, WallarooVQConfig(**SMALL_VQ | (vq or {}))).to_dict()
    values["text_config"].update(SMALL_TEXT | (text or {}), initializer_range=0.1)
    values["vision_config"].update(SMALL_VISION, initializer_range=0.1)
    values["tie_word_embeddings"] = values["text_config"]["tie_word_embeddings"] = tied
    torch.manual_seed(seed)
    model = WallarooForConditionalGeneration(WallarooConfig.from_dict(values))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def samples_of(*tasks: str, seed: int = 1, **options: Any) -> list[dict[str, Any]]:
    """A sample of the shapes world for each name."""
    return [ShapesDataset(task, seed, len(tasks), **options)[index] for index, task in enumerate(tasks)]


def collator_of(processor: Any, **options: Any) -> WallarooDataCollator:
    """A collator whose choices depend on the samples' seeds alone."""
    return WallarooDataCollator(processor, **{"unconditional_probability": 0.25, **options})


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the gradients, zeros where there is none."""
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor], **options: Any):
    """Losses by name and gradients of a batch."""
    model.zero_grad(set_to_none=True)
    output = model(**{name: value for name, value in batch.items() if name != "dropped"}, **options)
    output.loss.backward()
    return {name: float(loss.detach()) for name, loss in output.losses.items()}, gradients(model)


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of tensors, as a share of the largest value."""
    assert first.keys() == second.keys()
    scale = max(float(value.abs().max()) for value in second.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / scale


class InOrder(list):
    """Samples that a trainer takes in their own order."""

    def length_of(self, position: int) -> int:
        return position


def trainer_of(model: Any, processor: Any, samples: list, folder: Path, *, collator: Any = None, **arguments: Any):
    """A trainer on a CPU that logs every step and takes all samples in a step, unless said otherwise."""
    callbacks = arguments.pop("callbacks", None)
    previews = arguments.pop("preview_samples", ())
    evaluated = arguments.pop("eval_dataset", None)
    values = {
        "per_device_train_batch_size": len(samples),
        "max_steps": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }
    return WallarooTrainer(
        model,
        WallarooTrainingArguments(str(folder), **values | arguments),
        train_dataset=InOrder(samples),
        eval_dataset=evaluated,
        data_collator=collator or collator_of(processor, drop=True),
        processing_class=processor,
        preview_samples=previews,
        callbacks=callbacks,
    )


def losses_of(logs: list[dict[str, float]]) -> list[dict[str, float]]:
    """What a log says of losses, gradient norms and the learning rate at each step."""
    names = ("loss", "grad_norm", "learning_rate", "dropped", "skipped_steps", "step", "eval")
    unsteady = ("second", "runtime")
    return [
        {
            key: value
            for key, value in entry.items()
            if key.startswith(names) and not any(word in key for word in unsteady)
        }
        for entry in logs
        if "train_runtime" not in entry
    ]
