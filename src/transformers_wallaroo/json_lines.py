# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reads files of JSON lines, an object each, and says in words what is wrong in them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 80  # characters of a wrong value


@dataclass(frozen=True)
class JsonLine:
    """A line of a file.

    Attributes:
        number: from 1 on; empty lines count.
        where: file and line, for messages.
        text: the line as it stands there, without the spaces around it.
        fields: the object that it is.
    """

    number: int
    where: str
    text: str
    fields: dict[str, Any]


def shown(value: Any) -> str:
    """A wrong value, for messages."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_text(path: Path) -> str:
    """A file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, but is not ({error}). Save it in UTF-8.") from error


def read_json_lines(path: Path, example: Mapping[str, Any] | None = None) -> Iterator[JsonLine]:
    """The lines that are not empty; the first that is no JSON object is a `ValueError` that names it.

    Args:
        example: what a line looks like, for that message.
    """
    such = "" if example is None else f" such as {json.dumps(example, ensure_ascii=False)}"
    # Not `splitlines`: it also ends a line where JSON may have such a character within a text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        text = line.strip()
        if not text:
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON: {error.msg} at column {error.colno}.") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{where} must be a JSON object{such}, but is {shown(fields)}.")
        yield JsonLine(number, where, text, fields)


__all__ = ["JsonLine", "read_json_lines", "read_text", "shown"]
