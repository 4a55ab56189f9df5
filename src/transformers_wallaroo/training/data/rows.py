# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Rows of JSON, JSON lines and Parquet by their index, without holding the file in memory."""

import difflib
import glob
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from .drops import DroppedSample

logger = logging.get_logger(__name__)

INDEX_FORMAT = 2  # another one where what is kept of a file changes
# Files from this size on, in bytes, are indexed once and the index is kept.
KEPT_FROM = 32 * 2**20
JSON_ENDINGS, PARQUET_ENDINGS = (".json", ".jsonl", ".ndjson"), (".parquet",)
KINDS: dict[type, str] = {str: "a text", list: "a list", Mapping: "an object with fields"}
SPACE = re.compile(r"[\s,]*")


def find_files(path: Any, endings: Sequence[str], name: str = "path") -> list[Path]:
    """The files that `path` names: a file, a folder (all below it), a pattern with `*`, or a list of these; in the
    order of their names."""
    found: list[Path] = []
    for entry in path if isinstance(path, (list, tuple)) else [path]:
        if not isinstance(entry, (str, Path)):
            raise ValueError(f"`{name}` must be a path or a list of paths, but got {entry!r}.")
        at = Path(entry).expanduser()
        if at.is_file():
            matches = [at]
        elif at.is_dir():
            matches = sorted(file for file in at.rglob("*") if file.suffix.lower() in endings and file.is_file())
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(at), recursive=True)) if Path(match).is_file()]
        if not matches:
            raise ValueError(
                f"`{name}` {str(entry)!r} has no files ({', '.join(endings)}): there is no such file or folder, or the "
                "data set is still packed or somewhere else."
            )
        found += matches
    return found


def field(row: Mapping[str, Any], names: str | Sequence[str], place: str, kind: type | None = None) -> Any:
    """The first of the fields that the row has something in.

    Args:
        kind: what it must be, one of `KINDS`; anything by default.

    Raises:
        DroppedSample: where the row has such a field with nothing in it, or with something else: this row is broken.
        ValueError: where it has no such field, with file, row and near names: this is another layout.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if row.get(name) is not None:
            if kind is not None and not isinstance(row[name], kind):
                raise DroppedSample(
                    "mismatch", f"{place}: {name!r} must be {KINDS[kind]}, but is {str(row[name])[:60]!r}."
                )
            return row[name]
    fields = ", ".join(map(repr, row)) or "none"
    empty = [name for name in wanted if name in row]
    if empty:
        raise DroppedSample("mismatch", f"{place} has nothing in {empty[0]!r}; its fields are {fields}.")
    near = [close for name in wanted for close in difflib.get_close_matches(name, list(row), n=2, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise ValueError(f"{place} has no field {' or '.join(map(repr, wanted))}; its fields are {fields}.{hint}")


def first_field(rows: "JsonRows | ParquetRows", names: str | Sequence[str]) -> Any:
    """The field of the first row, for a look at the layout before the run; `None` where that row is broken."""
    try:
        return field(rows[0], names, rows.name_of(0))
    except DroppedSample:
        return None


def kept_index(path: Path, kind: str, make: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make` finds in a file; those of a large file are kept in the Hugging Face cache until it
    changes."""
    status = path.stat()
    if status.st_size < KEPT_FROM:
        return make(path)
    key = f"{INDEX_FORMAT} {kind} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    file = Path(HF_HOME) / "wallaroo" / "indices" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    found = make(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not by the process: on several machines with one cache it may have the same number.
    partial = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.npz")
    np.savez(partial, **found)  # type: ignore[arg-type]
    os.replace(partial, file)
    return found


class JsonRows(Sequence[dict[str, Any]]):
    """The objects of JSON files, each a list of objects or one object a line.

    Only where each begins and ends is held in memory, 16 bytes a row. A row is read when it is asked for.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self._spans = [kept_index(file, "json", _index)["spans"] for file in files]
        self._starts = np.cumsum([0, *(len(spans) for spans in self._spans)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        file, row = self._locate(index)
        start, end = self._spans[file][row].tolist()
        with open(self.files[file], "rb") as stream:
            stream.seek(start)
            text = stream.read(end - start)
        try:
            return json.loads(text)
        except UnicodeDecodeError as error:
            raise DroppedSample("unreadable", f"{self.name_of(index)} is no text in UTF-8 ({error}).") from error

    def name_of(self, index: int) -> str:
        """File and row, for messages; rows are counted from 1."""
        file, row = self._locate(index)
        return f"{self.files[file]}, row {row + 1}"

    def length_of(self, index: int) -> int:
        """Bytes of a row."""
        file, row = self._locate(index)
        start, end = self._spans[file][row].tolist()
        return end - start

    def file_of(self, index: int) -> Path:
        return self.files[self._locate(index)[0]]

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), but got {index}.")
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])


def _index(file: Path) -> dict[str, np.ndarray]:
    """First and last byte of each object of a JSON file, int64 `(rows, 2)`.

    The bytes are read as Latin-1, in which each is one character: places in the text are places in the file, and what
    JSON is made of is the same in it.
    """
    text = file.read_bytes().decode("latin-1")
    begin = 3 if text.startswith("\xef\xbb\xbf") else 0  # the mark that some editors write
    is_list = text[begin : begin + 1024].lstrip().startswith("[")
    place = text.index("[") + 1 if is_list else begin
    decoder = json.JSONDecoder()
    spans: list[tuple[int, int]] = []
    with logging.tqdm(
        total=len(text),
        desc=f"indexing {file.name}",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=len(text) < KEPT_FROM,
    ) as bar:
        while True:
            place = SPACE.match(text, place).end()  # type: ignore[union-attr]
            if place >= len(text) or (is_list and text[place] == "]"):
                break
            try:
                value, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{file} is no JSON at row {len(spans) + 1} (line {error.lineno}): {error.msg}. Is it whole?"
                ) from error
            if not isinstance(value, dict):
                raise ValueError(
                    f"{file}, row {len(spans) + 1} must be an object with fields, but is {text[place:end][:60]!r}."
                )
            spans.append((place, end))
            bar.update(end - place)
            place = end
    if is_list and place >= len(text):
        raise ValueError(f"{file} is no whole JSON: its list does not end. Was the download cut off?")
    return {"spans": np.array(spans, dtype=np.int64).reshape(-1, 2)}


class ParquetRows(Sequence[dict[str, Any]]):
    """The rows of Parquet files, which `datasets` keeps in its cache as Arrow files, mapped into memory; or those of a
    `datasets.Dataset`. Pictures stay the bytes that they are."""

    def __init__(self, files: Sequence[Path] = (), *, rows: Any = None, cache_dir: str | None = None):
        import datasets

        name = "the data set"
        if rows is None:
            name = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
            rows = datasets.Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir)
        self.name = name
        self.features = rows.features
        self._rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), but got {index}.")
        return self._rows[index].to_pylist()[0]

    def name_of(self, index: int) -> str:
        """File and row, for messages; rows are counted from 1."""
        return f"{self.name}, row {index + 1}"

    def file_of(self, index: int) -> Path | None:  # noqa: ARG002
        return None


def open_rows(path: Any, *, cache_dir: str | None = None) -> JsonRows | ParquetRows:
    """The rows that `path` names: JSON or Parquet files (see `find_files`), or a data set of the Hub,
    `{"hub": name}` with `config` and `split` as `datasets.load_dataset` takes them."""
    if isinstance(path, Mapping):
        return _from_hub(path, cache_dir)
    files = find_files(path, (*JSON_ENDINGS, *PARQUET_ENDINGS))
    kinds = {file.suffix.lower() in PARQUET_ENDINGS for file in files}
    if len(kinds) == 2:
        raise ValueError(f"`path` {path!r} has JSON and Parquet files, which are two data sets: name one of them.")
    rows = ParquetRows(files, cache_dir=cache_dir) if kinds == {True} else JsonRows(files)
    if not len(rows):
        raise ValueError(f"`path` {path!r} has no rows.")
    return rows


def _from_hub(path: Mapping[str, Any], cache_dir: str | None) -> ParquetRows:
    import datasets

    unknown = sorted(set(path) - {"hub", "config", "split"})
    if unknown or "hub" not in path:
        raise ValueError(f"`path` must be a path, or hub, config and split of a data set of the Hub, but is {path!r}.")
    split = path.get("split", "train")
    return ParquetRows(rows=datasets.load_dataset(path["hub"], path.get("config"), split=split, cache_dir=cache_dir))


__all__ = ["JsonRows", "ParquetRows", "field", "find_files", "first_field", "kept_index", "open_rows"]
