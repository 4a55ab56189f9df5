# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples a second and peak memory of our training step, beside a straightforward step, in one run.

Both steps take the same samples, the same weights and the same attention and find the same loss, which is checked here
to 1e-3; both go backward, clip the gradient and step AdamW. What differs:

- *straightforward*: as the released programs train (docs/protocol.md sections 10 and 13). The samples of each task are
  a batch of their own, padded to a fixed maximum; the text head gives logits over the whole vocabulary at every
  position of every task, the task's image head logits over all codes at every position; the VQ tokenizer encodes the
  pictures in every step. It is kinder than they are: the text head runs once and not twice, and pictures of one size go
  through the tokenizer together and not one by one.
- *pixels*: ours. Samples of all tasks are packed into rows as the recipe says, and logits are at labelled positions.
- *codes*: the same from cached codes (`encode_dataset`).

What the maximum is decides much (`--maximum`): `released`, the default, takes the released recipe's limits
(docs/protocol.md section 10), all scaled by the one factor that lets the longest sample to be drawn just fit; `longest`
is the longest sample of each task, which is the least that loses no sample; `limit` is what our recipe allows.

The three take turns, batch by batch; a figure is the median over the rounds. Batches are collated beforehand, for all
three: in training that is the work of the data loader's processes. Peak memory is that of the tensors of a step, above
what is there before it (weights and the optimizer's state, which are the same for all).
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from common import peak_bytes, write_figures
from torch import nn

from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor, WallarooVQConfig
from transformers_wallaroo.image_grid_wallaroo import TASKS, ImageTask
from transformers_wallaroo.modeling_wallaroo import IGNORE_INDEX
from transformers_wallaroo.training.codes import EncodedDataset
from transformers_wallaroo.training.collator import WallarooDataCollator
from transformers_wallaroo.training.encoding import encode_dataset
from transformers_wallaroo.training.run import build_collator, mixture
from transformers_wallaroo.training.stages import StageConfig, freeze, prepare_processor
from transformers_wallaroo.training.tiny import build_tiny

RECIPES = Path(__file__).resolve().parent.parent / "examples" / "recipes" / "tiny"
MIXES = {"stage_3b": "stage-3b.yaml", "stage_4": "stage-4.yaml"}
VARIANTS = ("straightforward", "pixels", "codes")
# Longest sequences of the released recipes, docs/protocol.md section 10.
RELEASED_LIMITS = {
    "stage_3b": {"understand": 2668, "generate": 1632},
    "stage_4": {"understand": 1504, "generate": 1632, "edit": 2624},
}
MAXIMA = ("released", "longest", "limit")
TOLERANCE = 1e-3  # of the losses, in fp32
Batch = dict[str, torch.Tensor]


# ---------------------------------------------------------------------- the straightforward step


def pad_to(batch: Batch, length: int, pad_token_id: int) -> Batch:
    """A padded batch, padded further on the right to a fixed length."""
    fillings = {"input_ids": pad_token_id, "labels": IGNORE_INDEX, "attention_mask": 0, "mm_token_type_ids": 0}
    missing = length - batch["input_ids"].shape[1]
    padded = {name: nn.functional.pad(batch[name], (0, missing), value=value) for name, value in fillings.items()}
    return {**batch, **padded}


def straightforward_loss(model: WallarooForConditionalGeneration, batches: Mapping[str, Batch]) -> torch.Tensor:
    """Loss of docs/protocol.md section 7 with logits at every position; a batch for each task."""
    total = torch.zeros((), device=model.device)
    for name, batch in batches.items():
        task, inputs = TASKS[name], {key: value for key, value in batch.items() if key not in ("task_ids", "dropped")}
        text_labels, is_code = inputs.pop("labels"), None
        if isinstance(task, ImageTask):
            is_code = inputs["mm_token_type_ids"] == task.code_type
            found, _ = model.model.encode_images(inputs.pop("target_pixel_values"), inputs.pop("target_grid"))
            codes = torch.cat(found)
            inputs["input_ids"] = inputs["input_ids"].masked_scatter(is_code, codes + model.config.text_vocab_size)
            text_labels = text_labels.masked_fill(is_code, IGNORE_INDEX)
        hidden_states = model.model(**inputs, use_cache=False).last_hidden_state
        total = total + full_loss(model.lm_head(hidden_states), text_labels)
        if is_code is not None:
            image_labels = torch.full_like(text_labels, IGNORE_INDEX).masked_scatter(is_code, codes)
            total = total + full_loss(getattr(model, task.head)(hidden_states), image_labels)
    return total


def full_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the labels, of logits `(batch, length, vocabulary)` of all positions."""
    shifted = logits.float()[:, :-1].contiguous()
    return nn.functional.cross_entropy(shifted.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)


# ---------------------------------------------------------------------- batches


def find_maxima(
    mix: str, kind: str, dataset: Any, collator: WallarooDataCollator, limits: dict[str, int]
) -> dict[str, int]:
    """Tokens that the straightforward step pads the samples of each task to, see `MAXIMA`."""
    if kind == "limit":
        return {task: limits.get(task, collator.processor.max_length) for task in dataset.sources}
    longest = dict.fromkeys(dataset.sources, 0)
    for position in range(len(dataset)):
        sample = dataset[position]
        longest[sample["task"]] = max(longest[sample["task"]], len(collator.encode(sample, position).ids))
    if kind == "longest":
        return longest
    released = RELEASED_LIMITS[mix]
    scale = longest["generate"] / released["generate"]
    return {task: max(math.ceil(released[task] * scale), longest[task]) for task in longest}


def with_codes(
    samples: Sequence[dict[str, Any]],
    model: WallarooForConditionalGeneration,
    processor: WallarooProcessor,
    folder: str,
) -> list[dict[str, Any]]:
    """The samples, those of image tasks with cached codes."""
    encoded: list[dict[str, Any]] = list(samples)
    for name, task in TASKS.items():
        places = [place for place, sample in enumerate(samples) if sample["task"] == name]
        if isinstance(task, ImageTask) and places:
            output = Path(folder) / name
            of_task = [samples[place] for place in places]
            encode_dataset(of_task, model.model.vq_model, processor, output, show_progress=False)
            cached = EncodedDataset(output, cache_dir=folder)
            for place, sample in zip(places, cached, strict=True):
                encoded[place] = sample
    return encoded


def make_batches(
    mix: str, config: StageConfig, model: WallarooForConditionalGeneration, processor: WallarooProcessor, options: Any
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """The same batches for each of `VARIANTS`, and the straightforward step's maximum of each task."""
    samples_needed, tasks = options.batches * config.batch_size, list(config.tasks)
    dataset = mixture(config.data, config.tasks, max(samples_needed, options.scan), options.seed)
    samples = [dataset[position] for position in range(samples_needed)]
    packed = build_collator(processor, config, model.config)
    padded = WallarooDataCollator(
        processor, mask_ratio=config.mask_ratio, unconditional_probability=config.unconditional_probability
    )
    maxima = find_maxima(mix, options.maximum, dataset, padded, config.limits)
    with tempfile.TemporaryDirectory() as folder:
        encoded = with_codes(samples, model, processor, folder)
    device = torch.device(options.device)
    batches: dict[str, list[Any]] = {name: [] for name in VARIANTS}
    for start in range(0, samples_needed, config.batch_size):
        chosen = range(start, start + config.batch_size)
        by_task = {task: [samples[place] for place in chosen if samples[place]["task"] == task] for task in tasks}
        straight = {
            task: pad_to(padded(own), maxima[task], processor.tokenizer.pad_token_id) for task, own in by_task.items()
        }
        batches["straightforward"].append({task: to_device(batch, device) for task, batch in straight.items()})
        for name, source in (("pixels", samples), ("codes", encoded)):
            batches[name].append(to_device(packed([source[place] for place in chosen]), device))
    return batches, maxima


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "dropped"}


def tokens_of(batch: Any) -> int:
    """Positions that the language model computes."""
    return sum(map(tokens_of, batch.values())) if "input_ids" not in batch else batch["input_ids"].numel()


# ---------------------------------------------------------------------- measuring


class Step:
    """One optimizer step on one model; `variant` says how the loss is found."""

    def __init__(self, model: WallarooForConditionalGeneration, config: StageConfig, options: Any):
        self.model = model
        self.device = torch.device(options.device)
        self.bf16 = options.precision == "bf16"
        self.max_grad_norm = config.max_grad_norm
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss(self, variant: str, batch: Any) -> torch.Tensor:
        if variant == "straightforward":
            return straightforward_loss(self.model, batch)
        return self.model(**batch).loss

    def __call__(self, variant: str, batch: Any) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            loss = self.loss(variant, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, variant: str, batch: Any) -> float:
        self.synchronize()
        started = time.perf_counter()
        self(variant, batch)
        self.synchronize()
        return time.perf_counter() - started

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare_losses(step: Step, batches: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Losses of the first batch in fp32; raises where they are not the same."""
    with torch.no_grad():
        losses = {name: float(step.loss(name, batches[name][0])) for name in VARIANTS}
    if max(losses.values()) - min(losses.values()) > TOLERANCE:
        raise RuntimeError(f"The steps compute different losses, so their speeds cannot be compared: {losses}.")
    return losses


def measure(mix: str, options: Any, report: Callable[[str], Any]) -> dict[str, Any]:
    """All figures of one mix."""
    config = StageConfig.load(RECIPES / MIXES[mix], options.overrides)
    vq_config = yaml.safe_load((RECIPES / "vq.yaml").read_text(encoding="utf-8"))["vq_config"]
    model, processor = build_tiny(WallarooVQConfig(**vq_config), seed=options.seed)
    model.set_attn_implementation(config.attention or "sdpa")
    model.to(options.device).train()
    prepare_processor(processor, config)
    freeze(model, config.train)
    batches, maxima = make_batches(mix, config, model, processor, options)
    if options.compile:
        model.model.language_model.compile(dynamic=True)
    step = Step(model, config, options)
    losses = compare_losses(step, batches)
    report(f"{mix}: the same loss, {', '.join(f'{name} {loss:.5f}' for name, loss in losses.items())}\n")
    for name in VARIANTS:  # the optimizer's state is made, and whatever compiles or warms up does
        for batch in batches[name][:2]:
            step(name, batch)
    rounds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        spent = dict.fromkeys(VARIANTS, 0.0)
        for number in range(options.batches):
            for name in VARIANTS:
                spent[name] += step.seconds(name, batches[name][number])
        for name in VARIANTS:
            rounds[name].append(options.batches * config.batch_size / spent[name])
    figures = {
        name: {
            "samples_per_second": round(statistics.median(rounds[name]), 2),
            "rounds": [round(speed, 2) for speed in rounds[name]],
            "positions_per_sample": round(
                sum(map(tokens_of, batches[name])) / (options.batches * config.batch_size), 1
            ),
            "peak_step_mb": round(
                max(
                    peak_bytes(lambda name=name, batch=batch: step(name, batch), step.device)
                    for batch in batches[name][:2]
                )
                / 2**20,
                1,
            ),
            "loss": losses[name],
        }
        for name in VARIANTS
    }
    return {"tasks": config.tasks, "maxima": maxima, "pack_length": config.pack_length, "variants": figures}


def ratios_of(mixes: Mapping[str, Any], variant: str) -> dict[str, float]:
    """Our samples a second over the straightforward step's: the median of the rounds' own ratios."""
    ratios = {}
    for mix, figures in mixes.items():
        ours, theirs = (figures["variants"][name]["rounds"] for name in (variant, "straightforward"))
        ratios[mix] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
    return ratios


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", choices=MIXES, action="append", help="only these (default: all)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="bf16 is by autocast")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, default=6, help="different batches (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="times through the batches (default: %(default)s)")
    parser.add_argument("--maximum", choices=MAXIMA, default=MAXIMA[0], help="what the straightforward step pads to")
    parser.add_argument("--scan", type=int, default=2000, help="samples the longest is found in (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the language model, for all steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipes say")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    write = sys.stdout.write
    mixes = {mix: measure(mix, options, write) for mix in options.mix or MIXES}
    ratios = {name: ratios_of(mixes, name) for name in ("codes", "pixels")}
    for mix, figures in mixes.items():
        write(f"\n{mix} {figures['tasks']}, padded to {figures['maxima']}\n")
        write(f"{'':16} {'samples/s':>10} {'ratio':>7} {'positions a sample':>19} {'peak of a step':>15}\n")
        for name, row in figures["variants"].items():
            ratio = 1.0 if name == "straightforward" else ratios[name][mix]
            write(
                f"{name:16} {row['samples_per_second']:10.1f} {ratio:7.2f} {row['positions_per_sample']:19.1f} "
                f"{row['peak_step_mb']:12.1f} MB\n"
            )
    result = {"ratios": ratios["codes"], "ratios_from_pixels": ratios["pixels"], "mixes": mixes}
    return write_figures(options, result, without=("mix",))


if __name__ == "__main__":
    main()
