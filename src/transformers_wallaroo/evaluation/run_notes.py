# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What `run.json` says of a run: how it was begun, gone on with, and ended."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .run_files import FAILURES, RUN, changes_between, read_run, remove_partial, write_json

logger = logging.get_logger(__name__)

LIBRARIES = ("transformers-wallaroo", "transformers", "torch", "pillow")


def is_on_cpu(device: Any) -> bool:
    """Whether a run computes on the CPU; without a device it takes a GPU where there is one."""
    return str(device).startswith("cpu") if device is not None else not torch.cuda.is_available()


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As `run.json` gives it back, for a comparison with what it holds."""
    return json.loads(json.dumps(values))


def check_resume(output: str | Path | None, *, resume: bool) -> None:
    """Raises where there is nothing that a run could go on with."""
    if resume and output is None:
        raise ValueError("`resume` needs `output`, the folder of the run to go on with (--output DIR).")


def earlier_run(output: Path, results: str, *, resume: bool, what: str = "pictures") -> dict[str, Any] | None:
    """What `run.json` of the folder says; raises where there is a run that was not to go on, or files of no run.

    Args:
        results: folder of `output` where a run puts what it makes.
        what: stands there.
    """
    before = read_run(output)
    if before is not None and not resume:
        raise ValueError(
            f"`output` {str(output)!r} has a run already. --resume (`resume=True`) goes on with it; else take another "
            "folder."
        )
    if before is None and (output / results).exists():
        raise ValueError(f"`output` {str(output)!r} has {what}, but no {RUN} that says whose. Take another folder.")
    return before


def check_same(output: Path, before: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises where what the folder holds is not what would be made now.

    Args:
        before: `run.json` of the folder.
        identity: what both must agree in, `settings` among it.
    """
    names = [name for name in identity if name != "settings"]
    changes = changes_between({name: before.get(name) for name in names}, {name: identity[name] for name in names})
    changes += changes_between(before.get("settings") or {}, identity["settings"])
    if changes:
        raise ValueError(
            f"`output` {str(output)!r} was begun otherwise: {'; '.join(changes)}. Its pictures and new ones do not go "
            "together. Take another folder."
        )


def note(output: Path, **values: Any) -> None:
    """Adds to `run.json`."""
    write_json(output / RUN, {**(read_run(output) or {}), **values})


def note_begin(
    output: Path, before: Mapping[str, Any] | None, *, batch_size: int, processes: int, device: Any, **values: Any
) -> None:
    """Notes that a run begins or goes on: `values`, and a session with versions and device."""
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "batch_size": batch_size,
        "processes": processes,
        "device": "cpu" if is_on_cpu(device) else str(device or "cuda"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    sessions = [*(before or {}).get("sessions", []), session]
    if len({json.dumps(entry["versions"]) for entry in sessions}) > 1:
        logger.warning(
            "The run goes on with other versions of its libraries, which may compute otherwise; see run.json."
        )
    remove_partial(output)
    note(output, **values, complete=False, sessions=sessions)


def note_end(output: Path, failures: Sequence[Mapping[str, str]], *, seconds: float) -> None:
    """Notes the outcome; only here is a run called complete."""
    if failures:
        write_json(output / FAILURES, failures)
    else:
        (output / FAILURES).unlink(missing_ok=True)
    sessions = (read_run(output) or {})["sessions"]
    sessions[-1]["seconds"] = round(seconds, 1)
    note(output, complete=not failures, failures=len(failures), sessions=sessions)
    remove_partial(output)


__all__ = ["as_json", "check_resume", "check_same", "earlier_run", "is_on_cpu", "note", "note_begin", "note_end"]
