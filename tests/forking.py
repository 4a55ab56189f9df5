# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Several processes that work together, without the time that new interpreters take."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


def in_processes(function: Callable[[int], Any], folder: Path, count: int = 2, timeout: float = 120) -> list[Any]:
    """What `function(rank)` returns in each of `count` processes, which are a group for torch.distributed.

    They are forked, for a new interpreter takes longer to import transformers than they have to work.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(function, rank, count, port, folder)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
    failures = [file.read_text() for file in sorted(folder.glob("failure-*.txt"))]
    codes = [process.exitcode for process in processes]
    if failures or any(codes):
        pytest.fail(f"exit codes {codes}\n" + "\n".join(failures))
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def _run(function: Callable[[int], Any], rank: int, count: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)  # others were not forked; nor shall accelerate ask for them
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    try:
        torch.save(function(rank), folder / f"result-{rank}.pt")
    except Exception:  # noqa: BLE001, told to the parent
        (folder / f"failure-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
