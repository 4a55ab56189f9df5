# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks whose pictures `wallaroo eval` makes, by name."""

from .dpg import DPG
from .gedit import GEDIT
from .geneval import GENEVAL
from .imgedit import IMGEDIT
from .samples import Benchmark

BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in (GENEVAL, DPG, IMGEDIT, GEDIT)}


def get_benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {', '.join(BENCHMARKS)}, but got {name!r}.")
    return BENCHMARKS[name]


__all__ = ["BENCHMARKS", "get_benchmark"]
