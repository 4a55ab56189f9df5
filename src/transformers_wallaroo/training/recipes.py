# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reads recipes: YAML files, what a command line changes in them, and whether keys and types are right."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Keys and values of a recipe.

    Args:
        path: YAML file. Its key `defaults` may name another recipe, relative to it, that it builds on.
        overrides: `"key=value"` or `"key.inner=value"`, the value as YAML, in place of what the recipe says.
    """
    values = _read(Path(path))
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"An override must be key=value, but got {override!r}.")
        *outer, last = name.split(".")
        target = values
        for key in outer:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise ValueError(f"The override {override!r} goes into {key!r}, which is no mapping.")
        target[last] = _parse(value, f"The override {override!r}")
    return values


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no recipe {str(path)!r}.")
    values = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a mapping of keys to values, but is {type(values).__name__}.")
    defaults = values.pop("defaults", None)
    return {**_read(path.parent / defaults), **values} if defaults else values


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {error}") from error


def check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises a `ValueError` for keys that the dataclass does not have, that it misses, or whose value is of another
    type."""
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known keys: {', '.join(fields)}."
            raise ValueError(f"{where} has the unknown key {key!r}.{hint}")
    missing = [
        name
        for name, entry in fields.items()
        if name not in values and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(map(repr, missing))}.")
    for key, hint in get_type_hints(cls).items():
        if key in values and not _fits(values[key], hint):
            advice = _number_hint(values[key], hint)
            raise ValueError(f"{where}: `{key}` must be {_type_name(hint)}, but got {values[key]!r}.{advice}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    options = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    return tuple(get_origin(option) or option for option in options if option is not Any)


def _fits(value: Any, hint: Any) -> bool:
    kinds = _kinds(hint)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _type_name(hint: Any) -> str:
    return hint.__name__ if hint in (str, int, float, bool) else str(hint).replace("typing.", "")


def _number_hint(value: Any, hint: Any) -> str:
    """YAML reads 1e-4 as text: it wants a dot."""
    try:
        number = float(value) if isinstance(value, str) and not isinstance("", _kinds(hint)) else None
    except ValueError:
        number = None
    if number is None:
        return ""
    if float not in _kinds(hint):
        return f" YAML reads it as text. Write {number:.0f}." if number.is_integer() else ""
    digits, exponent = f"{number:e}".split("e")
    digits = digits.rstrip("0")
    return f" YAML reads it as text. Write {digits}{'0' * digits.endswith('.')}e{int(exponent):+d}, with a dot."


__all__ = ["check_keys", "read_recipe"]
