# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`Trainer` for mixed batches of the three tasks: the loss of a whole step, its parts by name, no step on a spike."""

import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..image_grid_wallaroo import TASKS
from ..modeling_wallaroo import LOSS_NAMES, loss_positions
from .collator import DROP_REASONS
from .mixture import LengthGroupedSteps, PaddedDataset
from .preview import draw_preview, send_to_trackers
from .spikes import SpikeGuard, guard_engine
from .stages import TRAINABLE, part_of

logger = logging.get_logger(__name__)

# Finds the part whose gradient norm a parameter belongs to.
PART_PATTERN = re.compile(rf"(?:^|\.)({'|'.join(TRAINABLE)})(?:\.|$)")


@dataclass
class WallarooTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's optimizer settings as defaults (docs/protocol.md section 10), and:

    Args:
        loss_weights: weight of each task in the loss, 1 where it is not named.
        spike_factor: a step whose gradient norm is above this many times the median of the last `spike_window` steps is
            skipped, on all processes; 0 turns this off. A step whose gradient is not finite is always skipped.
        spike_window: steps that the median is taken over; there is no guard before half of them are done.
        group_by_length: sort the samples of one optimizer step by length (where they are not packed).
        log_part_norms: log the gradient norm of each part of the model by its name.
    """

    learning_rate: float = field(default=1e-4)
    lr_scheduler_type: str = field(default="constant_with_warmup")
    adam_beta2: float = field(default=0.95)
    max_grad_norm: float = field(default=1.0)
    remove_unused_columns: bool = field(default=False)
    loss_weights: dict[str, float] | str | None = field(default=None)
    spike_factor: float = field(default=10.0)
    spike_window: int = field(default=100)
    group_by_length: bool = field(default=False)
    log_part_norms: bool = field(default=True)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.loss_weights, str):
            self.loss_weights = json.loads(self.loss_weights)
        unknown = sorted(set(self.loss_weights or {}) - set(TASKS))
        if unknown:
            raise ValueError(f"`loss_weights` may name the tasks {', '.join(TASKS)}, but got {', '.join(unknown)}.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` must be 0: it takes the labels away from the model's losses.")


class LogAtCheckpoints(TrainerCallback):
    """Logs whenever a checkpoint is written: what is noted since the last log is in no checkpoint, and a run that goes
    on from one would log other means than one that never stopped."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        control.should_log = control.should_log or control.should_save


class WallarooTrainer(Trainer):
    """`Trainer` whose loss is that of docs/protocol.md section 7 over the whole step.

    Each of the five losses is a mean over the labels of all batches of a step on all processes, so that neither
    gradient accumulation nor the number of processes changes the loss or its gradient. Each is logged by its name, with
    the gradient norm of each part of the model, dropped samples by reason, and tokens a second.

    Args:
        preview_samples: samples, as for the collator, whose images are made after every evaluation: a contact sheet
            `previews/step-N.png` in the output folder, also sent to TensorBoard and Weights & Biases where they report.
        kwargs: as `Trainer`'s; `processing_class` is the `WallarooProcessor`.
    """

    def __init__(self, *args: Any, preview_samples: Sequence[Mapping[str, Any]] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.args.n_gpu} GPUs, but its batches cannot be split by rows. Start a process "
                "for each GPU (`accelerate launch`, `torchrun`), or show one GPU: `CUDA_VISIBLE_DEVICES=0`."
            )
        if self.args.world_size > 1 and not self.args.average_tokens_across_devices:
            raise ValueError("`average_tokens_across_devices` must be on: each loss is a mean over all processes.")
        if is_deepspeed_zero3_enabled():
            from deepspeed.utils import set_z3_leaf_module

            set_z3_leaf_module(part_of(self.model, "vq_model"), True)
        self.model_accepts_loss_kwargs = True
        self.preview_samples = preview_samples
        self.spike_guard = SpikeGuard(getattr(self.args, "spike_factor", 10.0), getattr(self.args, "spike_window", 100))
        self.add_callback(self.spike_guard)
        self.add_callback(LogAtCheckpoints())
        # What the log says: of the steps since the last log, and of the batches of the step under way.
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._steps: dict[str, int] = defaultdict(int)
        self._step_sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._since = time.monotonic()
        # Whether the step under way is left out, once that is decided.
        self._left_out: bool | None = None
        # Of each batch of an evaluation: sum and number of labels of each loss, and dropped samples by reason.
        self._evaluated: list[tuple[torch.Tensor, ...]] = []

    # ------------------------------------------------------------------ data

    def _get_train_sampler(self, train_dataset=None):
        """In the data set's own order where it has one (`MixtureDataset`), sorted by length within a step if wished."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not hasattr(dataset, "length_of"):
            return super()._get_train_sampler(train_dataset)
        if not getattr(self.args, "group_by_length", False):
            return torch.utils.data.SequentialSampler(dataset)
        samples_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSteps(dataset, samples_a_step)

    def get_eval_dataloader(self, eval_dataset=None):
        """As `Trainer`'s, but no sample is seen by two processes."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        chosen = self.eval_dataset[chosen] if isinstance(chosen, str) else chosen
        if self.args.world_size == 1 or not hasattr(chosen, "__len__"):
            return super().get_eval_dataloader(eval_dataset)
        return super().get_eval_dataloader(PaddedDataset(chosen, self.args.eval_batch_size * self.args.world_size))

    # ------------------------------------------------------------------ loss

    def _get_num_items_in_batch(self, batch_samples, device):
        """Labels of each of `LOSS_NAMES` in all batches of a step, on all processes; float32 `(5,)`."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = torch.stack([label_counts(batch) for batch in batch_samples]).sum(dim=0).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return counts

    def _prepare_inputs(self, inputs):
        """As `Trainer`'s, with the VQ tokenizer whole where ZeRO-3 shards the weights.

        Processes encode pictures of other sizes, so as often as they have sizes, or none: they cannot fetch the
        tokenizer's weights together on the way.
        """
        if is_deepspeed_zero3_enabled():
            weights: list[Any] = list(part_of(self.model, "vq_model").parameters())
            for weight in weights:
                weight.ds_persist = True
            weights[0].all_gather(weights)
        return super()._prepare_inputs(inputs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The batch's share of the loss of the step; its parts are noted for the log."""
        inputs = dict(inputs)
        dropped = inputs.pop("dropped", None)
        outputs = model(
            **inputs,
            num_items_in_batch=num_items_in_batch,
            loss_weights=getattr(self.args, "loss_weights", None),
        )
        loss = outputs["loss"]
        if model.training:
            self._note(outputs["losses"], inputs, dropped)
        if self.args.average_tokens_across_devices:
            # The processes' gradients are averaged, but each loss is a share of the whole.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _note(self, losses, inputs, dropped) -> None:
        """Adds a batch to what the log will say of this step."""
        for name, loss in losses.items():
            self._step_sums[f"loss/{name}"] += loss.detach()
        self._sums["tokens"] += (inputs["input_ids"] != self.pad_token_id).sum()
        if dropped is not None:
            self._sums["dropped"] += dropped

    def _end_step(self, finite: bool) -> None:
        """Adds the losses of a step to those of the steps since the last log; those of a failed step are forgotten."""
        for name, loss in self._step_sums.items():
            if finite:
                self._sums[name] += loss
                self._steps[name] += 1
        self._step_sums.clear()

    @property
    def pad_token_id(self) -> int:
        return self.processing_class.tokenizer.pad_token_id

    # ------------------------------------------------------------------ the step

    def _prepare_for_training(self, *args: Any, **kwargs: Any):
        """As `Trainer`'s. DeepSpeed's engine steps within the backward pass, so it is told there what to leave out."""
        model, dataloader = super()._prepare_for_training(*args, **kwargs)
        if self.is_deepspeed_enabled:
            guard_engine(self.accelerator.deepspeed_engine_wrapped.engine, self._leaves_out)
        return model, dataloader

    def _leaves_out(self, norm: float) -> bool:
        """Whether the step under way, of this gradient norm, must do nothing: it is not finite, far above the usual, or
        zero, as of samples that were all dropped (the optimizer would go on as before, and weights decay).

        The norm is the same on all processes, and so is what is decided from it, once a step.
        """
        if self._left_out is None:
            reason = self.spike_guard.verdict(norm)
            if reason is not None:
                logger.warning(f"Step {self.state.global_step + 1} is skipped: {reason}.")
            self._left_out = reason is not None or norm == 0
        return self._left_out

    def _get_grad_norm(self, model, grad_norm=None):
        """Notes the norms by part, and makes a step that is to be left out do nothing."""
        norm = super()._get_grad_norm(model, grad_norm)
        value = float(norm)
        logging_now = (
            self.args.logging_steps and (self.state.global_step + 1) % max(int(self.args.logging_steps), 1) == 0
        )
        if getattr(self.args, "log_part_norms", True) and logging_now and math.isfinite(value):
            clipped = min(1.0, self.args.max_grad_norm / (value + 1e-6)) if self.args.max_grad_norm > 0 else 1.0
            for part, part_norm in part_norms(model).items():
                self._sums[f"grad_norm/{part}"] = part_norm / clipped
        self._end_step(math.isfinite(value))
        left_out = self._leaves_out(value)
        if left_out and not self.is_deepspeed_enabled:
            model.zero_grad(set_to_none=True)
        elif left_out and not self.args.fp16:
            # DeepSpeed leaves out what is not finite by itself, and `Trainer` would then hold the learning rate, which
            # goes on everywhere else.
            model.optimizer.overflow = False
        self._left_out = None
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds what was noted since the last log: means a step over all processes."""
        if "loss" in logs:
            logs = {**logs, **self._collect()}
        super().log(logs, *args, **kwargs)

    def _collect(self) -> dict[str, float]:
        losses = [f"loss/{name}" for name in LOSS_NAMES]
        device = self.args.device
        sums = torch.cat(
            [
                torch.tensor([float(self._sums[name]) for name in (*losses, "tokens")], device=device),
                torch.as_tensor(self._sums["dropped"], device=device).float().expand(len(DROP_REASONS)),
            ]
        )
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        *of_losses, tokens = sums[: len(losses) + 1].tolist()
        now = time.monotonic()
        # Each process has the losses of all batches' labels, so each has been counted in the same steps.
        logs = {name: of_losses[i] / self._steps[name] for i, name in enumerate(losses) if self._steps.get(name)}
        logs.update(_named_drops(sums[-len(DROP_REASONS) :], "dropped/"))
        logs["tokens_per_second"] = round(tokens / max(now - self._since, 1e-9), 1)
        logs.update({name: float(value) for name, value in self._sums.items() if name.startswith("grad_norm/")})
        if self.spike_guard.skipped:
            logs["skipped_steps"] = self.spike_guard.skipped
        self._since = now
        self._sums.clear()
        self._steps.clear()
        return logs

    @contextmanager
    def _not_training(self) -> Iterator[None]:
        """Leaves the time that something takes out of that in which tokens are trained."""
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._not_training():
            super()._save_checkpoint(*args, **kwargs)

    # ------------------------------------------------------------------ evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):  # noqa: ARG002
        """Loss of a batch; sums and counts of its parts are kept for `evaluation_loop`."""
        inputs = self._prepare_inputs(inputs)
        dropped = inputs.pop("dropped", torch.zeros(len(DROP_REASONS), device=self.args.device))
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, loss_weights=getattr(self.args, "loss_weights", None))
        counts = label_counts(inputs).to(self.args.device)
        losses = torch.stack(
            [torch.as_tensor(outputs["losses"].get(name, 0.0), device=counts.device).float() for name in LOSS_NAMES]
        )
        self._evaluated.append((losses * counts, counts, dropped.float()))
        return outputs["loss"].detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """As `Trainer`'s, with each loss as a mean over all labels of the data set, and what was dropped."""
        self._evaluated.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._evaluated:
            totals = (torch.stack(values).sum(dim=0) for values in zip(*self._evaluated, strict=True))
            sums, counts, dropped = (self.accelerator.reduce(values, reduction="sum") for values in totals)
            means = {name: float(sums[i] / counts[i]) for i, name in enumerate(LOSS_NAMES) if counts[i] > 0}
            weights = getattr(self.args, "loss_weights", None) or {}
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
            output.metrics[f"{metric_key_prefix}_loss"] = sum(
                value * weights.get(name.split("_")[0], 1.0) for name, value in means.items()
            )
            output.metrics.update(_named_drops(dropped, f"{metric_key_prefix}_dropped/"))
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Losses on the held-out set, and the contact sheet of `preview_samples`."""
        with self._not_training():
            metrics = super().evaluate(*args, **kwargs)
            if self.preview_samples and self.is_world_process_zero():
                self._preview()
        return metrics

    def _preview(self) -> None:
        model = self.accelerator.unwrap_model(self.model_wrapped)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            logger.warning_once("No previews are drawn while the weights are sharded over processes.")
            return
        # In the precision of training, whatever that of the weights; a compiled model would first be compiled once more
        # for the steps on a cache, which takes longer than the few pictures do.
        with self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            sheet = draw_preview(model, self.processing_class, self.preview_samples, seed=self.args.seed)
        path = Path(self.args.output_dir) / "previews" / f"step-{self.state.global_step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        send_to_trackers(self.callback_handler.callbacks, sheet, self.state.global_step)


def label_counts(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Labels of each of `LOSS_NAMES` in a batch, float32 `(5,)`."""
    positions = loss_positions(batch["labels"], batch["mm_token_type_ids"], batch.get("task_ids"))
    return torch.stack([where.sum() for where in positions.values()]).float()


def _named_drops(counts: torch.Tensor, prefix: str) -> dict[str, float]:
    """Samples dropped by reason, where there are any."""
    return {f"{prefix}{reason}": count for reason, count in zip(DROP_REASONS, counts.tolist(), strict=True) if count}


def part_norms(model: torch.nn.Module) -> dict[str, float]:
    """Gradient norm of each part that has gradients; of all processes' shards where the weights are sharded."""
    squares: dict[str, torch.Tensor] = {}
    sharded = False
    for name, parameter in model.named_parameters():
        found = PART_PATTERN.search(name)
        if parameter.grad is not None and found:
            gradient = parameter.grad.detach()
            if hasattr(gradient, "to_local"):
                gradient, sharded = gradient.to_local(), True
            squares[found[1]] = squares.get(found[1], 0.0) + gradient.float().square().sum()
    sums = torch.stack(list(squares.values())) if squares else torch.zeros(0)
    if sharded:
        torch.distributed.all_reduce(sums)
    return dict(zip(squares, sums.sqrt().tolist(), strict=True))


__all__ = ["WallarooTrainer", "WallarooTrainingArguments", "label_counts", "part_norms"]
