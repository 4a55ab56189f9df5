# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Kills what runs, at a chosen moment, as `kill -9` and the loss of a machine do: nothing of Python's own ends it."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def killed_at(owner: Any, name: str, call: int, action: Callable[[], Any], *, after: bool = False) -> None:
    """Does `action` in a process of its own that dies by SIGKILL when it calls `owner.name` for the nth time; `after`:
    when that call has returned."""

    def run() -> None:
        whole, calls = getattr(owner, name), []

        def dying(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*args, **kwargs)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, dying)
        action()
        os._exit(0)

    # A new interpreter takes longer to import transformers than most actions take.
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
