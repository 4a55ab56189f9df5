# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The processes that make a benchmark's pictures together, as `accelerate launch` starts them."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# The others wait for the slowest at the end; where one dies, the launcher ends them.
PATIENCE = timedelta(days=7)


class Processes:
    """This process and those beside it, or this one alone.

    Use as a context. What they tell each other goes over the CPU, so that it does not matter what they compute on.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._owns_group = False

    def __enter__(self) -> "Processes":
        if self.count > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=PATIENCE)
            self._owns_group = True
        self._group = distributed.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None
        return self

    def __exit__(self, *_error: object) -> None:
        if self._owns_group:
            distributed.destroy_process_group()

    def first_does(self, action: Callable[[], Any]) -> Any:
        """The first process acts, the others wait; all have what it gives. A `ValueError` or `OSError` of the first is
        raised in all."""
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[1] = action()
            except (ValueError, OSError) as error:
                if self.count == 1:
                    raise
                outcome[0] = str(error)
        if self.count > 1:
            distributed.broadcast_object_list(outcome, src=0, group=self._group)
        if outcome[0] is not None:
            raise ValueError(outcome[0])
        return outcome[1]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in all."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def device(self, name: str | None) -> str | torch.device | None:
        """The device of this process: the named one, or the GPU that is its own."""
        if name is None and self.count > 1 and torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return name


__all__ = ["Processes"]
