# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Conversations, in the words of transformers or of LLaVA, to turns with a vision block for each picture."""

from collections.abc import Mapping
from typing import Any

from ..conversations_wallaroo import PICTURE_KEYS
from ..prompts_wallaroo import SYSTEM_PROMPT, VISION_BLOCK, insert_images

# What LLaVA-style conversations call the speakers.
ROLES = {"human": "user", "gpt": "assistant"}


def turns_of(sample: Mapping[str, Any], num_images: int) -> tuple[list[tuple[str, str]], list[Any]]:
    """(role, text) of each turn with a vision block for each picture, the system turn first; and the pictures that the
    messages themselves hold."""
    messages = sample.get("messages") or sample.get("conversations")
    if not isinstance(messages, (list, tuple)):
        raise ValueError(f"'messages' or 'conversations' must be a list of turns, but got {messages!r}.")
    held: list[Any] = []
    turns = [_turn(message, held) for message in messages]
    if not any(role == "assistant" for role, _ in turns):
        raise ValueError("it has no assistant turn, so that there is nothing to learn.")
    if turns[0][0] != "system":
        turns.insert(0, ("system", SYSTEM_PROMPT))
    placed = sum(text.count(VISION_BLOCK) for _, text in turns)
    if placed == 0 and num_images:
        turns[1] = (turns[1][0], VISION_BLOCK * num_images + turns[1][1])
    elif placed != (num_images or len(held)):
        raise ValueError(f"it has {num_images or len(held)} images, but its messages place {placed}.")
    return turns, held


def _turn(message: Any, held: list[Any]) -> tuple[str, str]:
    """Role and text of a message, in the words of transformers or of LLaVA; pictures as vision blocks. A picture
    that a part of the message holds is added to `held`."""
    fields = message if isinstance(message, Mapping) else {}
    role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    role = ROLES.get(role, role) if isinstance(role, str) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, (str, list, tuple)):
        raise ValueError(f"it has a message that is no turn of a conversation: {message!r}.")
    if isinstance(content, str):
        return role, insert_images(content)
    texts = []
    for part in content:
        if not isinstance(part, Mapping):
            raise ValueError(f"it has a message part that is neither text nor image: {part!r}.")
        if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(insert_images(part["text"]))
        elif part.get("type") == "image":
            texts.append(VISION_BLOCK)
            held += [part[name] for name in PICTURE_KEYS if part.get(name) is not None][:1]
        else:
            raise ValueError(f"it has a message part that is neither text nor image: {part!r}.")
    return role, "".join(texts)
