# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reads the prompts of benchmarks, from files as published or from the Hub, and says in words what is wrong in them."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_lines import read_json_lines, read_text, shown


@dataclass(frozen=True)
class Row:
    """Fields of one prompt and where they stand."""

    where: str
    fields: Mapping[str, Any]

    def get(self, name: str, kind: type, wanted: str) -> Any:
        """The field, or a `ValueError` that names line and field."""
        if name not in self.fields:
            raise ValueError(f"{self.where}: there is no field {name!r}, which must be {wanted}. {self._has()}")
        value = self.fields[name]
        # True is an int in Python, but not in JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.where}: the field {name!r} must be {wanted}, but is {shown(value)}.")
        return value

    def text(self, name: str, wanted: str) -> str:
        """A string that is not empty, without the spaces around it."""
        value = self.get(name, str, wanted).strip()
        if not value:
            raise ValueError(f"{self.where}: the field {name!r} must be {wanted}, but is empty.")
        return value

    def file_name(self, name: str, wanted: str) -> str:
        """A string that names a file on any system, and stays within its folder."""
        value = self.text(name, wanted)
        check_file_name(value, f"{self.where}: the field {name!r}")
        return value

    def _has(self) -> str:
        return f"It has {', '.join(map(repr, self.fields)) or 'none'}: is this the file of another benchmark?"


def check_file_name(value: str, what: str) -> None:
    """Raises where a string cannot be the name of a file."""
    if value.startswith(".") or any(character in '/\\:*?"<>|' or ord(character) < 32 for character in value):
        raise ValueError(f"{what} becomes the name of a file, but {shown(value)} cannot be one.")


def json_lines(path: Path) -> Iterator[tuple[Row, str]]:
    """Rows of a file with a JSON object a line, each with its line as it stands there."""
    return ((Row(line.where, line.fields), line.text) for line in read_json_lines(path))


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV file with a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for fields in reader:
                # Cells beyond the header have no name, cells that are not there no value.
                given = {name: value for name, value in fields.items() if name is not None and value is not None}
                yield Row(f"{path}, line {reader.line_num}", given)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: this is no CSV in UTF-8 ({error}).") from error


def json_entries(path: Path) -> Iterator[tuple[str, Row]]:
    """Entries of a file that holds one JSON object of objects."""
    repeated: set[str] = set()

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        value = json.loads(read_text(path), object_pairs_hook=gather)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: this is no JSON ({error.msg}).") from error
    if repeated:
        raise ValueError(f"{path}: the key {min(repeated)!r} is there more than once.")
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object with an entry a prompt, but holds {shown(value)}.")
    for key, fields in value.items():
        where = f"{path}, key {key!r}"
        if not isinstance(fields, dict):
            raise ValueError(f"{where}: must be a JSON object, but is {shown(fields)}.")
        yield key, Row(where, fields)


def is_on_hub(prompts: str | Path) -> bool:
    """Whether a user means a data set on the Hub: `owner/name`, with `:split` behind it where it has several."""
    text = str(prompts)
    return not Path(text).exists() and text.count("/") == 1 and not text.startswith((".", "/", "~"))


def data_set(prompts: str | Path) -> Any:
    """A data set of the Hub, of Parquet files or of `save_to_disk`, its pictures not decoded yet."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"Reading {prompts} needs the library `datasets`: `pip install 'transformers-wallaroo[eval]'`."
        ) from error
    path, name = Path(prompts), str(prompts)
    if not path.exists():
        name, _, split = name.partition(":")
        loaded = datasets.load_dataset(name)
    elif path.is_dir() and not list(path.rglob("*.parquet")):
        split, loaded = "", datasets.load_from_disk(str(path))
    else:
        files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
        split, loaded = "", datasets.load_dataset("parquet", data_files=files)
    if isinstance(loaded, datasets.DatasetDict):
        splits = [split] if split else list(loaded)
        if len(splits) > 1 or splits[0] not in loaded:
            raise ValueError(
                f"`prompts` {str(prompts)!r} must name one split, as in '{name}:{next(iter(loaded))}'; there are "
                f"{', '.join(loaded)}."
            )
        loaded = loaded[splits[0]]
    return loaded


def data_set_rows(prompts: str | Path, data: Any, pictures: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a data set without its pictures. Fields that hold nothing are left out: a table has each field in every
    row, also where a file of JSON would not have it."""
    kept = data.remove_columns([name for name in pictures if name in data.column_names])
    for number, fields in enumerate(kept):
        yield Row(f"{prompts}, row {number}", _without_nothing(fields))


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nothing(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nothing(entry) for entry in value]
    return value


def check_prompts_path(prompts: str | Path, expected: str) -> Path:
    """The path, or a `ValueError` where there is nothing."""
    if not Path(prompts).exists():
        raise ValueError(f"`prompts` must be {expected}, or a data set on the Hub, but there is no {prompts}.")
    return Path(prompts)


def check_unique(rows: Sequence[tuple[str, str]], what: str) -> None:
    """Raises where two prompts have one name. `rows` are names with where they stand."""
    places: dict[str, str] = {}
    for name, where in rows:
        # Some file systems do not tell capitals.
        first = places.setdefault(name.casefold(), where)
        if first is not where:
            raise ValueError(f"{where}: the {what} {name!r} is that of another prompt ({first}).")


__all__ = [
    "Row",
    "check_file_name",
    "check_prompts_path",
    "check_unique",
    "csv_rows",
    "data_set",
    "data_set_rows",
    "is_on_hub",
    "json_entries",
    "json_lines",
]
