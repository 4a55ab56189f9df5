# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The queue in front of the model: bounded, in order of arrival, pictures of equal settings together."""

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from transformers.utils import logging

from ..streaming import Stopped

logger = logging.get_logger(__name__)

REMEMBERED = 0.8  # how much of what is known of the pace stays at each batch
LONGEST_RETRY = 60  # seconds


class QueueFull(Exception):
    """There is no room; `retry_after` says in how many seconds there may be."""

    def __init__(self, retry_after: int):
        super().__init__(retry_after)
        self.retry_after = retry_after


class Closing(Exception):
    """The server is going down and takes nothing more."""


class Work:
    """An entry of the queue.

    Args:
        item: what is to be done, for the scheduler's `run`.
        key: entries of equal keys may be done together; one whose key is `None` is done alone.

    Attributes:
        future: its result.
        left: set where nobody waits for the result any more.
    """

    def __init__(self, item: Any, key: Hashable | None = None):
        self.item, self.key = item, key
        self.future: Future = Future()
        self.future.set_running_or_notify_cancel()  # who leaves says so by `left`; the future itself is not cancelled
        self.left = threading.Event()
        self.arrived = time.monotonic()


class Scheduler:
    """One thread that has the model, and the entries that wait for it.

    Args:
        run: does a batch: it gives each entry's future its result, or raises.
        max_batch: entries of a batch.
        batch_wait: seconds that the first of a batch waits for others.
        max_queue: entries that wait.
        on_batch: told the entries of a batch and how many seconds it took.
    """

    def __init__(
        self,
        run: Callable[[list[Work]], None],
        *,
        max_batch: int,
        batch_wait: float,
        max_queue: int,
        on_batch: Callable[[list[Work], float], None] | None = None,
    ):
        self._run, self._on_batch = run, on_batch
        self.max_batch, self.batch_wait, self.max_queue = max_batch, batch_wait, max_queue
        self._queue: list[Work] = []
        self._running: list[Work] = []
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 0.0  # seconds an entry
        self._thread = threading.Thread(target=self._loop, name="wallaroo-scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, works: Sequence[Work]) -> None:
        """Takes all of some entries or, raising `QueueFull` or `Closing`, none."""
        with self._changed:
            if self._closing:
                raise Closing
            if len(self._queue) + len(works) > self.max_queue:
                raise QueueFull(self._retry_after())
            self._queue.extend(works)
            self._changed.notify()

    def leave(self, works: Sequence[Work]) -> None:
        """Nobody waits for these any more: those in the queue go, a batch of which all are left is stopped."""
        with self._changed:
            for work in works:
                work.left.set()
                if work in self._queue:
                    self._queue.remove(work)
            self._changed.notify()

    def refuse(self) -> None:
        """From now on `submit` raises `Closing`; what is there goes on."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self) -> None:
        """Ends everything: what waits and what runs fails by `Stopped`, and the thread ends."""
        with self._changed:
            self._closing = True
            for work in self._queue:
                work.future.set_exception(Stopped())
            self._queue.clear()
            for work in self._running:
                work.left.set()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _retry_after(self) -> int:
        return min(max(math.ceil(self._pace * len(self._queue)), 1), LONGEST_RETRY)

    def _loop(self) -> None:
        while batch := self._next():
            started = time.monotonic()
            self._do(batch)
            seconds = time.monotonic() - started
            with self._changed:
                self._running = []
                pace = seconds / len(batch)
                self._pace = pace if self._pace == 0 else REMEMBERED * self._pace + (1 - REMEMBERED) * pace
            if self._on_batch is not None:
                self._on_batch(batch, seconds)

    def _next(self) -> list[Work]:
        """Waits for a batch, which is empty at the end."""
        with self._changed:
            while True:
                if self._queue:
                    first = self._queue[0]
                    mates = [first]
                    if first.key is not None:
                        mates = [work for work in self._queue if work.key == first.key][: self.max_batch]
                    wait = first.arrived + self.batch_wait - time.monotonic()
                    if first.key is None or len(mates) >= self.max_batch or wait <= 0 or self._closing:
                        self._queue = [work for work in self._queue if work not in mates]
                        self._running = mates
                        return mates
                    self._changed.wait(wait)
                elif self._closing:
                    return []
                else:
                    self._changed.wait()

    def _do(self, batch: list[Work]) -> None:
        try:
            self._run(batch)
        except Stopped as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 (whoever waits gets it)
            if len(batch) == 1:
                _fail(batch, error)
                return
            logger.warning(f"A batch of {len(batch)} failed ({type(error).__name__}: {error}); they go one by one.")
            for work in batch:
                if not work.future.done():
                    self._do([work])


def _fail(batch: Sequence[Work], error: Exception) -> None:
    for work in batch:
        if not work.future.done():
            work.future.set_exception(error)


__all__ = ["Closing", "QueueFull", "Scheduler", "Work"]
