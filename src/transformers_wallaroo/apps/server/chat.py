# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`/v1/chat/completions`."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...prompts_wallaroo import check_prompt
from ..engine import MAX_NEW_TOKENS, AnswerEnd
from .batching import Work
from .errors import ApiError
from .fetch import fetch_picture
from .schema import ChatRequest, TextPart
from .service import Answering, Patience, Service, as_api_error
from .settings import ServerSettings
from .uploads import check_picture, decode_data_url

router = APIRouter()
# A role, and the parts of its content: texts, and what opens a picture.
Turn = tuple[str, list[str | Callable[[], Image.Image]]]


@router.post("/v1/chat/completions", summary="Answer a conversation, in which pictures may stand")
async def complete(request: Request, body: ChatRequest) -> Response:
    service: Service = request.app.state.service
    patience = Patience(request, service.settings.timeout)
    reader = AnswerReader(service, patience)
    try:
        service.check_model(body.model)
        options = _options(body, service.settings)
        # A client that leaves is fetched nothing for.
        turns = await patience.wait(_turns(body, service.settings, len(await request.body())))
        await service.read(lambda: service.engine.prepare_answer(_messages(turns)))
        # What fails before the first piece still has a status of its own.
        await reader.begin(_messages(turns), body.stop, options)
        said = Completion(service.name, body)
        if not body.stream:
            text = "".join([piece async for piece in reader.pieces()])
            return JSONResponse(said.whole(text, reader.end))
    except BaseException:
        reader.leave()
        raise
    return StreamingResponse(
        _events(reader, said),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class AnswerReader:
    """An answer on its way from the thread of the model to the client.

    Attributes:
        end: how it ended, after its last piece.
    """

    end: AnswerEnd

    def __init__(self, service: Service, patience: Patience):
        self._service, self._patience = service, patience
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()  # `None` at the end
        self._work: Work | None = None
        self._first: str | None = None

    async def begin(self, messages: Sequence[Mapping[str, Any]], stop: Sequence[str], options: dict[str, Any]) -> None:
        """Has the answer written, and waits for its first piece."""
        self._work = Work(Answering(messages, self._emit, stop, options))
        self._work.future.add_done_callback(lambda _: self._emit(None))
        self._service.submit([self._work])
        self._first = await self._next()

    async def pieces(self) -> AsyncIterator[str]:
        piece = self._first
        try:
            while piece is not None:
                yield piece
                piece = await self._next()
        finally:
            self.leave()

    def leave(self) -> None:
        """To be called whatever happens: nothing is written for nobody."""
        self._patience.end()
        if self._work is not None:
            self._service.scheduler.leave([self._work])

    def _emit(self, piece: str | None) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)

    async def _next(self) -> str | None:
        assert self._work is not None
        try:
            piece = await self._patience.wait(self._queue.get())
            if piece is None:
                self.end = self._work.future.result()
            return piece
        except Exception as error:
            raise as_api_error(error) from error


class Completion:
    """What is said of one answer, whole or in chunks."""

    def __init__(self, name: str, body: ChatRequest):
        self._usage = body.stream_options.include_usage
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}

    def whole(self, text: str, end: AnswerEnd) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(end)}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        # Where usage was asked for, every chunk has the field.
        extra = {"usage": None} if self._usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **extra}

    def last(self, end: AnswerEnd) -> list[dict[str, Any]]:
        chunks = [self.chunk({}, end.reason)]
        if self._usage:
            chunks.append({**chunks[0], "choices": [], "usage": _usage(end)})
        return chunks


async def _events(reader: AnswerReader, said: Completion) -> AsyncIterator[str]:
    """Server-sent events. An error after the first of them has no status any more: it is an event, and the last one."""
    try:
        yield _event(said.chunk({"role": "assistant", "content": ""}))
        async for piece in reader.pieces():
            yield _event(said.chunk({"content": piece}))
        for chunk in said.last(reader.end):
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())
    finally:
        reader.leave()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _usage(end: AnswerEnd) -> dict[str, int]:
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.new_tokens,
        "total_tokens": end.prompt_tokens + end.new_tokens,
    }


def _options(body: ChatRequest, settings: ServerSettings) -> dict[str, Any]:
    """Arguments of `Engine.stream_answer`. Without a temperature and a `top_p` the likeliest token is taken."""
    most = body.max_completion_tokens or body.max_tokens
    if most is not None and most > settings.max_new_tokens:
        raise ApiError(
            400,
            f"`max_completion_tokens` must be at most {settings.max_new_tokens} here, but got {most}.",
            param="max_completion_tokens",
        )
    options: dict[str, Any] = {"max_new_tokens": most or min(MAX_NEW_TOKENS, settings.max_new_tokens)}
    if body.repetition_penalty is not None:
        options["repetition_penalty"] = body.repetition_penalty
    if body.temperature == 0 or (body.temperature is None and body.top_p is None):
        return {**options, "do_sample": False}
    # transformers leaves all but 50 tokens out unless told.
    options.update(do_sample=True, temperature=body.temperature or 1.0, top_p=body.top_p or 1.0, top_k=body.top_k or 0)
    return {**options, "seed": body.seed if body.seed is not None else secrets.randbelow(2**63)}


async def _turns(body: ChatRequest, settings: ServerSettings, size: int) -> list[Turn]:
    """The conversation, its pictures fetched and checked; with them a request of `size` bytes may not be larger than
    any other."""
    turns: list[Turn] = []
    pictures = 0
    for number, message in enumerate(body.messages):
        parts: list[str | Callable[[], Image.Image]] = []
        content = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        for place, part in enumerate(content):
            param = f"messages.{number}.content" + ("" if isinstance(message.content, str) else f".{place}")
            if isinstance(part, TextPart):
                try:
                    parts.append(check_prompt(part.text, param))
                except ValueError as error:
                    raise ApiError(400, str(error), param=param) from error
                continue
            pictures += 1
            if pictures > settings.max_pictures:
                raise ApiError(400, f"`messages` may hold {settings.max_pictures} pictures.", param="messages")
            url, param = part.image_url.url, f"{param}.image_url"
            if url.startswith(("http://", "https://")):
                data = await fetch_picture(url, settings, param, settings.max_body - size)
                size += len(data)
            else:
                data = decode_data_url(url, settings, param)
            parts.append(check_picture(data, settings, param))
        turns.append(("system" if message.role == "developer" else message.role, parts))
    return turns


def _messages(turns: list[Turn]) -> list[dict[str, Any]]:
    """As the engine takes them, with pictures that nobody has decoded yet."""
    return [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part()}
                for part in parts
            ],
        }
        for role, parts in turns
    ]


__all__ = ["AnswerReader", "Completion", "router"]
