# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Steps that are not taken, because their gradient is no number or far above the usual; under DeepSpeed as well."""

import functools
import math
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class SpikeGuard(TrainerCallback, ExportableState):
    """Remembers recent gradient norms, and which steps were skipped; travels with the checkpoints of a run."""

    def __init__(self, factor: float = 10.0, window: int = 100):
        self.factor = factor
        self.norms: deque[float] = deque(maxlen=window)
        self.skipped = 0

    def state(self) -> dict[str, Any]:
        return {
            "args": {"factor": self.factor, "window": self.norms.maxlen},
            "attributes": {"norms": list(self.norms), "skipped": self.skipped},
        }

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        """Takes up what a checkpoint's state holds."""
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.norms.clear()
        self.norms.extend(kept.get("norms", []))
        self.skipped = kept.get("skipped", 0)

    def verdict(self, norm: float) -> str | None:
        """Why a step of this gradient norm must be skipped, or `None`; remembers the norm of a step that is taken."""
        if not math.isfinite(norm):
            self.skipped += 1
            return f"its gradient norm is {norm}"
        if norm == 0:  # Nothing to learn, as of samples that were all dropped: that says nothing of what is usual.
            return None
        usual = median(self.norms) if len(self.norms) >= (self.norms.maxlen or 0) / 2 and self.norms else None
        if self.factor and usual is not None and norm > self.factor * usual:
            self.skipped += 1
            # Remembered at its bound, so that a lasting change of scale does not stop the run for good.
            self.norms.append(self.factor * usual)
            return f"its gradient norm {norm:.3g} is more than {self.factor:g} times the median {usual:.3g}"
        self.norms.append(norm)
        return None


def guard_engine(engine: Any, leaves_out: Callable[[float], bool]) -> None:
    """Makes a step of a DeepSpeed engine do nothing where `leaves_out` says so of its gradient norm.

    The engine's optimizer (ZeRO's) takes the norm over all processes, then calls `step` of the optimizer within it,
    torch's or DeepSpeed's own, once for each group of weights. Where that call is left out, weights and moments stay as
    they are, and ZeRO clears the gradients as after any other step. A norm that is not finite mostly does not get so
    far, since ZeRO leaves such steps out by itself.
    """
    inner = [engine.basic_optimizer]
    if hasattr(engine.optimizer, "backup_optimizer"):  # Of the weights that stay on the GPU in a partial offload.
        inner.append(engine.optimizer.backup_optimizer)
    for optimizer in inner:
        optimizer.step = _guarded(optimizer.step, engine, leaves_out)


def _guarded(step: Callable[..., Any], engine: Any, leaves_out: Callable[[float], bool]) -> Callable[..., Any]:
    @functools.wraps(step)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # The engine takes the norm over from ZeRO's optimizer after the step; without ZeRO it has it by now.
        norm = float(getattr(engine.optimizer, "_global_grad_norm", engine.get_global_grad_norm()))
        # Where ZeRO is told not to look for infinities, -1 stands for one.
        return None if leaves_out(math.inf if norm < 0 else norm) else step(*args, **kwargs)

    return guarded


__all__ = ["SpikeGuard", "guard_engine"]
