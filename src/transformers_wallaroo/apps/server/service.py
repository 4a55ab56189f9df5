# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What stands between the requests and the engine: the work as the engine does it, and waiting for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio.to_thread
from starlette.requests import Request
from transformers.utils import logging

from ...wording import sentence
from ..engine import AnswerEnd, Engine, ImageJob
from ..streaming import Stopped
from .batching import Closing, QueueFull, Scheduler, Work
from .errors import CLIENT_LEFT, ApiError, failed
from .metrics import Metrics
from .settings import ServerSettings

logger = logging.get_logger(__name__)
Result = TypeVar("Result")

READERS = 2  # pictures that are decoded and checked at once: what is decoded is what takes memory


@dataclass(frozen=True)
class Answering:
    """An answer to be written: the arguments of `Engine.stream_answer`, and who gets its pieces."""

    messages: Sequence[Mapping[str, Any]]
    emit: Callable[[str], None]
    stop: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class StopTexts:
    """Cuts a text that comes in pieces before the first of some strings, and keeps back what may become one.

    Attributes:
        found: whether one has come; what comes after is not let through.
    """

    def __init__(self, stops: Sequence[str]):
        self.stops, self.found = list(stops), False
        self._kept = ""

    def take(self, piece: str) -> str:
        """What may be said now."""
        if self.found:
            return ""
        text = self._kept + piece
        places = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        if places:
            self.found, self._kept = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was kept back, where nothing follows."""
        rest, self._kept = self._kept, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class Service:
    """An engine behind its queue, for the routes."""

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine, self.settings = engine, settings
        self.metrics = Metrics()
        self.open_requests = 0
        self.scheduler = Scheduler(
            self._run,
            max_batch=settings.max_batch,
            batch_wait=settings.batch_wait,
            max_queue=settings.max_queue,
            on_batch=self._count,
        )
        self._readers = anyio.CapacityLimiter(READERS)
        self.metrics.watch("wallaroo_queue_length", lambda: self.scheduler.waiting)
        self.metrics.watch("wallaroo_running", lambda: self.scheduler.running)
        self.metrics.watch("wallaroo_requests_open", lambda: self.open_requests)

    @property
    def name(self) -> str:
        return self.settings.name or self.engine.name

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"There is no model {name!r} here; this server has {self.name!r}.",
                param="model",
                code="model_not_found",
            )

    # ------------------------------------------------------------------ in the thread of the scheduler

    def _run(self, batch: list[Work]) -> None:
        if isinstance(batch[0].item, ImageJob):
            made = self.engine.make([work.item for work in batch], stop=lambda: all(w.left.is_set() for w in batch))
            for work, image in zip(batch, made, strict=True):
                work.future.set_result(image)
        else:
            [work] = batch
            work.future.set_result(self._answer(work))

    def _answer(self, work: Work) -> AnswerEnd:
        item: Answering = work.item
        stops = StopTexts(item.stop)
        ends: list[AnswerEnd] = []
        pieces = self.engine.stream_answer(
            item.messages, stop=lambda: stops.found or work.left.is_set(), on_end=ends.append, **item.options
        )
        for piece in pieces:
            if text := stops.take(piece):
                item.emit(text)
        if work.left.is_set():
            raise Stopped
        if text := stops.rest():
            item.emit(text)
        [end] = ends
        return AnswerEnd(end.prompt_tokens, end.new_tokens, "stop") if stops.found else end

    def _count(self, batch: list[Work], seconds: float) -> None:
        images = [work.item for work in batch if isinstance(work.item, ImageJob)]
        self.metrics.batch_seconds.labels("images" if images else "answer").observe(seconds)
        if images:
            self.metrics.batches.observe(len(images))
        for work in batch:
            if work.future.exception() is not None:
                continue
            if isinstance(work.item, ImageJob):
                self.metrics.images.labels(work.item.task.name).inc()
            else:
                self.metrics.tokens.labels("prompt").inc(work.future.result().prompt_tokens)
                self.metrics.tokens.labels("new").inc(work.future.result().new_tokens)

    # ------------------------------------------------------------------ in the loop of the server

    async def read(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Calls what decodes or checks in a thread; a `ValueError` is the client's fault."""
        try:
            return await anyio.to_thread.run_sync(call, *arguments, limiter=self._readers)
        except ValueError as error:
            raise ApiError(400, sentence(error)) from error

    def submit(self, works: Sequence[Work]) -> None:
        try:
            self.scheduler.submit(works)
        except QueueFull as error:
            raise too_busy(error.retry_after) from error
        except Closing as error:
            raise going_down() from error

    async def finish(self, works: Sequence[Work], patience: "Patience") -> list[Any]:
        """The results of some works that were submitted, all or an `ApiError`; whatever ends the wait, none is left
        behind in the queue."""
        try:
            return await patience.wait(asyncio.gather(*(asyncio.wrap_future(work.future) for work in works)))
        except Exception as error:
            raise as_api_error(error) from error
        finally:
            self.scheduler.leave(works)


class Patience:
    """Waits no longer than the client does, and than the server allows. To be made when the body has been read."""

    def __init__(self, request: Request, seconds: float):
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._gone = asyncio.ensure_future(_until_left(request))

    async def wait(self, result: Awaitable[Result]) -> Result:
        task = asyncio.ensure_future(result)
        try:
            left = max(self._deadline - asyncio.get_running_loop().time(), 0)
            await asyncio.wait([task, self._gone], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._gone.done():
                raise ApiError(CLIENT_LEFT, "The client left.")
            raise ApiError(504, f"The answer was not there after {self._seconds:g} seconds, and was given up.")
        finally:
            task.cancel()

    def end(self) -> None:
        self._gone.cancel()

    def __enter__(self) -> "Patience":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def too_busy(retry_after: int) -> ApiError:
    return ApiError(
        429,
        f"The server has as many requests as it takes. Try again in {retry_after} s.",
        headers={"Retry-After": str(retry_after)},
    )


def going_down() -> ApiError:
    return ApiError(503, "The server is going down, and takes nothing more.", headers={"Retry-After": "5"})


def as_api_error(error: BaseException) -> ApiError:
    """What a client hears of an error of the work."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (Stopped, CancelledError)):
        return going_down()
    if isinstance(error, ValueError):
        return ApiError(400, sentence(error))
    logger.error("A request failed.", exc_info=error)
    return failed()


__all__ = ["Answering", "Patience", "Service", "StopTexts", "as_api_error", "going_down", "too_busy"]
