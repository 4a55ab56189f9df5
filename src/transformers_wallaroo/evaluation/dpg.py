# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""DPG-Bench (arXiv 2403.05135): long prompts, scored by questions. Four pictures a prompt, in one grid."""

from pathlib import Path

from ..json_lines import read_text
from .prompt_files import (
    Row,
    check_file_name,
    check_prompts_path,
    check_unique,
    csv_rows,
    data_set,
    data_set_rows,
    is_on_hub,
)
from .samples import Benchmark, BenchmarkSample

EXPECTED = "the file dpg_bench.csv or the folder `prompts` of DPG-Bench"


def read(prompts: str | Path) -> list[BenchmarkSample]:
    """Samples of the folder of texts (`{item_id}.txt`), of the CSV file with its questions, or of a data set with the
    fields `item_id` and `text`.

    The scorer wants `{item_id}.png`, a grid of 2 x 2 pictures which are squares.
    """
    if is_on_hub(prompts):
        texts = _unique_texts(data_set_rows(prompts, data_set(prompts)))
    else:
        path = check_prompts_path(prompts, EXPECTED)
        texts = _texts_of_folder(path) if path.is_dir() else _unique_texts(csv_rows(path))
    check_unique([(item, where) for item, (_, where) in texts.items()], "item_id")
    return [
        BenchmarkSample(key=item, where=where, prompt=_plain(text, where), pictures=(f"{item}.png",), is_grid=True)
        for item, (text, where) in texts.items()
    ]


def _texts_of_folder(folder: Path) -> dict[str, tuple[str, str]]:
    texts = {}
    for file in sorted(folder.glob("*.txt")):
        _check_item(file.stem, f"{file}: its name")
        texts[file.stem] = read_text(file), str(file)
    if not texts:
        raise ValueError(f"`prompts` must be {EXPECTED}, but {folder} holds no .txt files.")
    return texts


def _unique_texts(rows) -> dict[str, tuple[str, str]]:
    """Item -> prompt and where it stands. The table has a row a question, so that most prompts stand there often."""
    texts: dict[str, tuple[str, str]] = {}
    for row in rows:
        item, text = _item(row), row.text("text", "the prompt")
        before, where = texts.setdefault(item, (text, row.where))
        if before != text:
            raise ValueError(f"{row.where}: the item {item!r} has another text than before ({where}).")
    return texts


def _item(row: Row) -> str:
    item = row.file_name("item_id", "the name of the prompt")
    _check_item(item, f"{row.where}: the field 'item_id'")
    return item


def _check_item(item: str, what: str) -> None:
    check_file_name(item, what)
    if "." in item:
        raise ValueError(f"{what} must have no dot, but is {item!r}: the scorer reads names up to a dot.")


def _plain(text: str, where: str) -> str:
    """The prompt without the quotation marks around some of them, which the released program takes off as well."""
    plain = text.strip().strip('"').strip("'")
    if not plain.strip():
        raise ValueError(f"{where}: the prompt is empty.")
    return plain


DPG = Benchmark("dpg", "DPG-Bench", "generate", read, paper={"guidance_scale": 4.0, "top_p": 0.95}, published=1065)
