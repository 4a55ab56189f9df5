# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The stages of training as data: `StageConfig`, read from YAML recipes, and what a stage does to a checkpoint."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed
from transformers.utils import logging

from ..configuration_wallaroo import MLP_NAMES, WallarooConfig
from ..image_grid_wallaroo import BUCKETS_512, TASKS
from ..modeling_wallaroo import WallarooForConditionalGeneration
from ..modeling_wallaroo_vq import WallarooVQModel
from ..processing_wallaroo import SIZE_INDICATORS, WallarooProcessor
from .recipes import check_keys, read_recipe

logger = logging.get_logger(__name__)

# What a recipe may train, by the names of the modules. The VQ tokenizer is frozen in every stage.
TRAINABLE = ("visual", "language_model", "lm_head", *MLP_NAMES)
STAGES = ("base", "1", "2", "3a", "3b", "4")
# Numbers of a recipe and the least that they may be.
FROM_ONE = ("steps", "gradient_accumulation", "global_batch", "size", "save_steps", "eval_steps", "logging_steps")
FROM_ZERO = (
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "min_side",
    "pack_length",
    "previews",
    "workers",
    "seed",
)
OPTIMIZERS = ("adamw", "muon")
# Where the source of an edit stands in a layout: its cells are `{source}`, what the vision tower sees is `{image}`.
SOURCE_ORDERS = {"low_level_first": "{source}{image}", "semantic_first": "{image}{source}"}
# The parts that a checkpoint may lack when a stage starts from it, since that stage is the first to train them.
GENERATION_PARTS = ("generation_adapter", "generation_head")
# What `editing_from_generation` copies. The editing head is not there where editing shares the generation head.
EDITING_FROM_GENERATION = {
    "editing_adapter": "generation_adapter",
    "source_adapter": "generation_adapter",
    "editing_head": "generation_head",
}


@dataclass
class StageConfig:
    """One stage of training (docs/protocol.md section 10), as a recipe says it.

    Attributes:
        stage: `"1"`, `"2"`, `"3a"`, `"3b"`, `"4"`, or `"base"` for the understanding model that all starts from.
        init: checkpoint that it starts from: a folder or a Hub name.
        output: folder of the run.
        train: parts that are trained, of `TRAINABLE`; everything else is frozen.
        tasks: samples of each task in a batch of one process; their sum is its size.
        data: where the samples of each task come from, see `open_source`; or a YAML file that has them under `data`,
            relative to the recipe.
        evaluation: the same for the held-out losses, of `tasks` or some of them; and `samples`, how many of them.
        steps, learning_rate, warmup_steps, scheduler, weight_decay, max_grad_norm: of the optimizer.
        optimizer: `"adamw"` (0.9, 0.95, 1e-8), or `"muon"`, which is torch's Muon for the matrices between layers and
            AdamW for the rest.
        gradient_accumulation: batches a step of each process.
        global_batch: samples a step on all processes. If given, `gradient_accumulation` follows from it.
        loss_weights: weight of each task's loss, 1 where it is not named.
        limits: most tokens of a sample, by task; longer ones are dropped and counted.
        min_side, max_ratio: images to be drawn that are smaller, in pixels, or longer than this are dropped.
        size: images are squares of this many pixels, or of the sizes of `buckets` where it is not given.
        buckets: (ratio, height, width) of the sizes; `"checkpoint"` keeps those of the checkpoint, `"released"` are
            those around 512.
        row_ends, size_indicators: see `WallarooProcessor`; the checkpoint's own where they are not given.
        vision_pixels: fewest and most pixels that the vision tower sees.
        mask_ratio, unconditional_probability, decision_probability, pack_length: see `WallarooDataCollator`.
        decides_edits: see `WallarooConfig`; true where there is a `decision_probability`, and to be set where the data
            holds conversations whose answers are pictures.
        vq_model: folder of a VQ tokenizer that takes the place of the checkpoint's.
        editing_from_generation: start the editing adapter, the editing head and the source adapter as copies of the
            generation adapter and head instead of from random weights.
        source_order: `"low_level_first"`, as released, or `"semantic_first"`: what stands first of an edit's source,
            its cells or what the vision tower sees of it. The checkpoint's own order where it is not given.
        source_positions, shared_image_head: see `WallarooConfig`; the checkpoint's own where they are not given.
        lora: options of peft's `LoraConfig`; the language model's linear layers are adapted, the other parts of
            `train` are trained whole. `quantize` in it (`"4bit"`, `"8bit"`) loads the model in that precision.
        bf16, gradient_checkpointing, compile: how it runs.
        attention: as transformers' `attn_implementation`.
        save_steps, eval_steps, logging_steps: how often. A checkpoint comes with a log, so that a run that goes on from
            it logs what one that never stopped would have.
        previews: how many pictures are drawn at an evaluation, of the first samples of `evaluation`.
        workers: processes that prepare batches, for each training process.
        seed: of weights, order and masks.
        trainer: any other `WallarooTrainingArguments`, by name.
    """

    stage: str
    init: str
    output: str
    train: list[str]
    tasks: dict[str, int]
    steps: int
    learning_rate: float
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    warmup_steps: int = 0
    scheduler: str = "constant_with_warmup"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    global_batch: int | None = None
    loss_weights: dict[str, float] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    min_side: int = 0
    max_ratio: float | None = None
    size: int | None = None
    buckets: str | list[list[float]] = "checkpoint"
    row_ends: bool | None = None
    size_indicators: str | None = None
    vision_pixels: list[int] | None = None
    mask_ratio: float = 0.6
    unconditional_probability: float = 0.1
    decision_probability: float = 0.0
    decides_edits: bool | None = None
    pack_length: int | None = None
    vq_model: str | None = None
    editing_from_generation: bool = False
    source_order: str | None = None
    source_positions: str | None = None
    shared_image_head: bool | None = None
    lora: dict[str, Any] | None = None
    bf16: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    attention: str | None = None
    save_steps: int = 1000
    eval_steps: int | None = None
    logging_steps: int = 10
    previews: int = 0
    workers: int = 0
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("stage", self.stage, STAGES)
        self.decides_edits = True if self.decides_edits is None and self.decision_probability else self.decides_edits
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.size_indicators is not None:
            _one_of("size_indicators", self.size_indicators, SIZE_INDICATORS)
        if self.source_order is not None:
            _one_of("source_order", self.source_order, tuple(SOURCE_ORDERS))
        for name in self.train:
            _one_of("train", name, TRAINABLE)
        for name in ("tasks", "limits", "loss_weights", "data"):
            for task in getattr(self, name):
                _one_of(name, task, tuple(TASKS))
        for name in self.evaluation:
            _one_of("evaluation", name, (*self.tasks, "samples"))
        self._check_numbers()
        if not self.train:
            raise ValueError(f"`train` must name what is trained, of {', '.join(TRAINABLE)}, but is empty.")
        if self.data and set(self.data) != set(self.tasks):
            raise ValueError(
                f"`data` must have an entry for each of {sorted(self.tasks)}, but has {sorted(self.data)}."
            )
        if self.size is not None and self.buckets != "checkpoint":
            raise ValueError("Give `size` for squares, or `buckets`, not both.")
        if isinstance(self.buckets, str):
            _one_of("buckets", self.buckets, ("checkpoint", "released"))
        elif any(not isinstance(bucket, list) or len(bucket) != 3 for bucket in self.buckets):
            raise ValueError(f"`buckets` must be a list of [ratio, height, width], but got {self.buckets!r}.")
        self._check_evaluation()
        if self.lora is not None and "language_model" not in self.train:
            raise ValueError("`lora` adapts the language model, but `train` does not name 'language_model'.")
        if self.optimizer == "muon":
            self._check_muon()

    def _check_muon(self) -> None:
        if self.lora is not None:
            raise ValueError("`optimizer` 'muon' is for whole matrices, not for those of `lora`. Take 'adamw'.")
        adams = sorted(name for name in self.trainer if name.startswith(("adam_", "optim")))
        if adams:
            raise ValueError(f"`trainer` has {', '.join(adams)}, which `optimizer` 'muon' does not read.")

    def _check_numbers(self) -> None:
        wrong = {task: count for task, count in self.tasks.items() if type(count) is not int or count < 1}
        if wrong or not self.tasks:
            raise ValueError(f"`tasks` must be a whole number of samples for each task, but got {self.tasks!r}.")
        if any(type(limit) is not int or limit < 1 for limit in self.limits.values()):
            raise ValueError(f"`limits` must be a whole number of tokens for each task, but got {self.limits!r}.")
        if any(not isinstance(weight, (int, float)) or weight < 0 for weight in self.loss_weights.values()):
            raise ValueError(f"`loss_weights` must be a number from 0 on for each task, but got {self.loss_weights!r}.")
        for least, names in ((1, FROM_ONE), (0, FROM_ZERO)):
            for name in names:
                if getattr(self, name) is not None and getattr(self, name) < least:
                    raise ValueError(f"`{name}` must be {least} or more, but got {getattr(self, name)}.")
        if self.vision_pixels is not None and len(self.vision_pixels) != 2:
            raise ValueError(f"`vision_pixels` must be [fewest, most], but got {self.vision_pixels!r}.")

    def _check_evaluation(self) -> None:
        if bool(self.evaluation) != bool(self.eval_steps):
            raise ValueError("`evaluation` and `eval_steps` go together: what is evaluated, and after how many steps.")
        if self.previews and not self.evaluation:
            raise ValueError("`previews` are drawn of the samples of `evaluation`, which is empty.")
        if self.previews and not set(self.evaluation) - {"understand", "samples"}:
            raise ValueError("`previews` are pictures that the model makes, but `evaluation` has 'understand' alone.")

    @property
    def batch_size(self) -> int:
        """Samples in a batch of one process."""
        return sum(self.tasks.values())

    def accumulation(self, processes: int) -> int:
        """Batches a step of each process; a `ValueError` where `global_batch` cannot be made of whole batches."""
        if self.global_batch is None:
            return self.gradient_accumulation
        batches, rest = divmod(self.global_batch, self.batch_size * processes)
        if rest or not batches:
            raise ValueError(
                f"`global_batch` is {self.global_batch}, but {processes} processes with {self.batch_size} samples a "
                f"batch ({self.tasks}) make {self.batch_size * processes}. Take a multiple of it, or other `tasks`."
            )
        return batches

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "StageConfig":
        """Reads a recipe.

        Args:
            path: YAML file. Its key `defaults` may name another recipe, relative to it, that it builds on.
            overrides: `"key=value"` or `"key.inner=value"`, the value as YAML, in place of what the recipe says.
        """
        values = read_recipe(path, overrides)
        for name in ("data", "evaluation"):
            if isinstance(values.get(name), str):
                values[name] = read_data(Path(path).parent / values[name])
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the recipe") -> "StageConfig":
        """Checks names and types; an unknown key names the nearest known one."""
        if isinstance(values.get("stage"), int):
            values = {**values, "stage": str(values["stage"])}
        check_keys(cls, values, where)
        return cls(**values)


def read_data(path: Path) -> dict[str, Any]:
    """What a YAML file, a mixture or a recipe, has under `data`."""
    data = read_recipe(path).get("data")
    if isinstance(data, str):
        return read_data(path.parent / data)
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{path} must have `data`, a mapping from tasks to sources, but has {data!r}.")
    for task in data:
        _one_of(f"data of {path}", task, tuple(TASKS))
    return data


def _one_of(name: str, value: Any, options: Sequence[str]) -> None:
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be of {', '.join(map(repr, options))}, but got {value!r}.{hint}")


# ---------------------------------------------------------------------- model and processor of a stage


def check_init(init: str) -> None:
    """Raises a `ValueError` where a stage cannot start from `init`: a path that is no folder, or a folder of an
    adapter."""
    path = Path(init)
    # What looks like this is no name on the Hub, which would be told in words that do not help.
    if (init.startswith(("/", ".", "~")) or init.count("/") > 1) and not path.is_dir():
        raise ValueError(
            f"`init` must be a checkpoint, but there is no folder {init!r}. If it is that of the stage before, train "
            "that stage first."
        )
    if (path / "adapter_config.json").is_file():
        raise ValueError(
            f"`init` must be a whole checkpoint, but {init!r} holds a LoRA adapter. Merge it with the model that it "
            "was trained on first: `PeftModel.from_pretrained(model, adapter).merge_and_unload()`; save that model and "
            "the processor, and start from their folder."
        )


def load_processor(config: StageConfig) -> WallarooProcessor:
    """The processor of the checkpoint that a stage starts from, with the sizes and marks of the stage."""
    check_init(config.init)
    return prepare_processor(WallarooProcessor.from_pretrained(config.init), config)


def prepare_processor(processor: WallarooProcessor, config: StageConfig) -> WallarooProcessor:
    """Sets the sizes and marks of a stage on a processor, which its checkpoints then carry."""
    image_processor = processor.image_processor
    if config.size is not None:
        image_processor.buckets = [[1.0, config.size, config.size]]
    elif config.buckets != "checkpoint":
        buckets = BUCKETS_512 if config.buckets == "released" else config.buckets
        image_processor.buckets = [list(bucket) for bucket in buckets]
    if config.vision_pixels is not None:
        fewest, most = config.vision_pixels
        image_processor.size = {"shortest_edge": fewest, "longest_edge": most}
    if config.source_order is not None:
        wanted = SOURCE_ORDERS[config.source_order]
        for layout in processor.layouts.values():
            for order in SOURCE_ORDERS.values():
                layout["edit"] = layout["edit"].replace(order, wanted)
    for name in ("row_ends", "size_indicators"):
        if getattr(config, name) is not None:
            setattr(processor, name, getattr(config, name))
    return processor


def load_model(config: StageConfig, **load_options: Any) -> WallarooForConditionalGeneration:
    """The checkpoint that a stage starts from, with the parts that it lacks and that this stage is the first to train.

    Weights are float32, for they are the optimizer's own copy; `bf16` computes in bfloat16 by autocast. The random
    weights of new parts depend on `seed` alone.
    """
    return load_parts(config, **load_options)[0]


def load_parts(config: StageConfig, **load_options: Any) -> tuple[WallarooForConditionalGeneration, list[str]]:
    """As `load_model`, with the names of the parts that are not the checkpoint's own."""
    check_init(config.init)
    options: dict[str, Any] = {"dtype": torch.float32, **load_options}
    if config.attention is not None:
        options["attn_implementation"] = config.attention
    for name in ("source_positions", "shared_image_head"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    set_seed(config.seed)
    model, info = WallarooForConditionalGeneration.from_pretrained(config.init, output_loading_info=True, **options)
    created = sorted({part for key in info["missing_keys"] for part in MLP_NAMES if part in key.split(".")})
    strangers = [key for key in info["missing_keys"] if not any(part in key.split(".") for part in created)]
    # An editing head that is shared from now on has no use.
    unknown = [key for key in info["unexpected_keys"] if not (config.shared_image_head and "editing_head" in key)]
    if strangers or unknown:
        raise ValueError(
            f"{config.init} does not hold what its config says: missing {strangers[:5]}, unexpected "
            f"{sorted(unknown)[:5]}."
        )
    late = [part for part in created if part in GENERATION_PARTS and config.stage not in ("base", "1")]
    if late:
        raise ValueError(
            f"{config.init} has no {', '.join(late)}, so stage {config.stage} cannot start from it: start with stage 1."
        )
    if created:
        logger.warning(f"{config.init} has no {', '.join(created)}; they start from random weights.")
    if config.vq_model is not None:
        vq_model = WallarooVQModel.from_pretrained(config.vq_model, dtype=torch.float32)
        model = with_vq_model(model, vq_model, seed=config.seed)
    if config.editing_from_generation:
        parts = {**dict(model.named_children()), **dict(model.model.named_children())}
        for target, source in EDITING_FROM_GENERATION.items():
            if target in parts:
                parts[target].load_state_dict(parts[source].state_dict())
                created.append(target)
    for name in ("row_ends", "decides_edits"):
        if getattr(config, name) is not None:
            setattr(model.config, name, getattr(config, name))
    return model, sorted(set(created))


def with_vq_model(
    model: WallarooForConditionalGeneration, vq_model: WallarooVQModel, *, seed: int = 0
) -> WallarooForConditionalGeneration:
    """The model with another VQ tokenizer, and new adapters and heads for its codes."""
    values = model.config.to_dict()
    values["vq_config"] = vq_model.config.to_dict()
    config = WallarooConfig.from_dict(values)
    config._attn_implementation = model.config._attn_implementation
    torch.manual_seed(seed)
    changed = WallarooForConditionalGeneration(config).to(next(model.parameters()).dtype)
    kept = {
        name: weight
        for name, weight in model.state_dict().items()
        if not any(part in name.split(".") for part in ("vq_model", *MLP_NAMES))
    }
    changed.load_state_dict(kept, strict=False)
    changed.model.vq_model.load_state_dict(vq_model.state_dict())
    changed.generation_config = model.generation_config
    return changed


def freeze(model: nn.Module, train: Sequence[str]) -> dict[str, int]:
    """Lets only the parts of `train` learn; returns the number of trainable parameters of each.

    Raises a `ValueError` for a part without weights of its own.
    """
    counts = dict.fromkeys(train, 0)
    for name, parameter in model.named_parameters():
        # The text head may be the embedding table itself; it then goes with the language model.
        part = next((part for part in TRAINABLE if part in name.split(".")), "")
        parameter.requires_grad_(part in counts and "vq_model" not in name.split("."))
        if parameter.requires_grad:
            counts[part] += size_of(parameter)
    nothing = [part for part, count in counts.items() if not count]
    if nothing:
        raise ValueError(
            f"`train` names {', '.join(nothing)}, but the model has no weights of its own there. A text head that is "
            "the embedding table is trained with 'language_model', a shared editing head with 'generation_head'."
        )
    return counts


def part_of(model: Any, name: str) -> nn.Module:
    """The part of that name of a model, with or without peft around it."""
    return next(module for path, module in model.named_modules() if path.split(".")[-1] == name)


def size_of(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, on all processes together: one that DeepSpeed has sharded is empty by itself."""
    return getattr(parameter, "ds_numel", parameter.numel())


__all__ = [
    "STAGES",
    "TRAINABLE",
    "StageConfig",
    "check_init",
    "freeze",
    "load_model",
    "load_parts",
    "load_processor",
    "part_of",
    "prepare_processor",
    "read_data",
    "size_of",
    "with_vq_model",
]
