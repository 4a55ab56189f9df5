# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Conversations in which both sides may show pictures, for `task="auto"`. Pure Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .image_grid_wallaroo import EDIT, GENERATE
from .prompts_wallaroo import PICTURE_MARKS, VISION_BLOCK

ROLES = ("system", "user", "assistant")
# Where a part of a chat message may have its picture.
PICTURE_KEYS = ("image", "url", "path", "base64", "image_url")
# How a picture is made; what a request may say of it.
PICTURE_OPTIONS = ("height", "width", "aspect_ratio", "negative_prompt")

Part = dict[str, Any]


def parts_of(content: Any) -> list[Part]:
    """The parts of a message: `{"type": "text", "text"}` or `{"type": "image", "image"}`, the latter with the `task`
    that made it and its `name` where the message has them."""
    if content is not None and not isinstance(content, (str, list, tuple)):
        raise ValueError(f"`conversation` has a content that is neither text nor a list of parts: {content!r}.")
    parts: list[Part] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        fields = part if isinstance(part, Mapping) else {}
        kind = fields.get("type") or ("text" if "text" in fields else "image")
        picture = next((fields[name] for name in PICTURE_KEYS if fields.get(name) is not None), None)
        if kind == "text" and isinstance(fields.get("text"), str):
            parts.append({"type": "text", "text": fields["text"]})
        elif kind in ("image", "image_url") and picture is not None:
            picture = picture["url"] if isinstance(picture, Mapping) else picture
            if fields.get("task") not in (None, GENERATE.name, EDIT.name):
                raise ValueError(f"The `task` of a picture must be 'generate' or 'edit', but got {fields['task']!r}.")
            own = {name: fields[name] for name in ("task", "name") if fields.get(name) is not None}
            parts.append({"type": "image", "image": picture, **own})
        else:
            raise ValueError(f"`conversation` has a part that is neither text nor an image with its picture: {part!r}.")
    return parts


@dataclass(frozen=True)
class AutoRequest:
    """A conversation that waits for an answer.

    Attributes:
        messages: `{"role", "content"}` each, the content as [`parts_of`] gives it. The last is the user's, or the
            answer so far.
        options: what pictures are to be, see `PICTURE_OPTIONS`; what is not there is as usual.
    """

    messages: tuple[dict[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, conversation: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> "AutoRequest":
        """Checks a conversation as chat templates take it."""
        if not isinstance(conversation, (list, tuple)):
            raise ValueError(f"`conversation` must be a list of messages, but got {type(conversation).__name__}.")
        messages = []
        for message in conversation:
            role = message.get("role") if isinstance(message, Mapping) else None
            if role not in ROLES:
                raise ValueError(f"`conversation` must have messages of {', '.join(ROLES)}, but got {message!r}.")
            messages.append({"role": role, "content": parts_of(message.get("content"))})
        request = cls(tuple(messages), options)
        if not messages or messages[-1]["role"] == "system" or not request.prompt.strip():
            raise ValueError(
                "`conversation` must end in a user's message with text, or in the answer to one, but its roles are "
                f"{[message['role'] for message in messages]}."
            )
        return request

    @property
    def prompt(self) -> str:
        """What the user said last, which is the prompt of the pictures in the answer."""
        asked: list[Part] = next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), [])
        return " ".join(part["text"] for part in asked if part["type"] == "text")

    @property
    def pictures(self) -> list[Any]:
        """All pictures, in their order; an edit changes the last."""
        return [part["image"] for part in self._picture_parts]

    @property
    def last_name(self) -> str | None:
        """What the last picture is called, where its part says so."""
        return self._picture_parts[-1].get("name") if self._picture_parts else None

    @property
    def _picture_parts(self) -> list[Part]:
        return [part for message in self.messages for part in message["content"] if part["type"] == "image"]

    def turns(self) -> tuple[list[dict[str, Any]], str | None]:
        """Messages for the chat template, and the answer so far as text. Before a picture that an answer has made
        stand the marks of its task, as in training."""
        messages = [{"role": m["role"], "content": _marked(m)} for m in self.messages]
        if messages[-1]["role"] != "assistant":
            return messages, None
        *before, answer = messages
        return before, "".join(part.get("text", VISION_BLOCK) for part in answer["content"])

    def continued(self, parts: Sequence[Part]) -> "AutoRequest":
        """The same with more of the answer."""
        *before, last = self.messages
        if last["role"] == "assistant":
            return replace(self, messages=(*before, {**last, "content": [*last["content"], *parts]}))
        return replace(self, messages=(*self.messages, {"role": "assistant", "content": list(parts)}))


def _marked(message: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for part in message["content"]:
        if part["type"] == "image" and message["role"] == "assistant":
            task = EDIT.name if part.get("task") == EDIT.name else GENERATE.name
            parts.append({"type": "text", "text": PICTURE_MARKS[task]})
        parts.append(part if part["type"] == "text" else {"type": "image"})
    return parts


__all__ = ["PICTURE_KEYS", "AutoRequest", "parts_of"]
