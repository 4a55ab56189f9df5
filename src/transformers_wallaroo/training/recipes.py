# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reads recipes: YAML files, and what a command line changes in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


__all__ = ["read_recipe"]
