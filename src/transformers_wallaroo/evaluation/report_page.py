# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""One page of HTML that needs no other file: runs, their pictures, and scores beside the paper's tables 3 to 6."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from .paper_tables import paper_tables, read_scores
from .report_parts import Part, read_part

TEMPLATE = "report_page.html.jinja"
PICTURES = 12  # prompts of a run whose pictures are shown


def save_report_page(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    scores: Iterable[str] = (),
    pictures: int = PICTURES,
    title: str = "Wallaroo: evaluation",
) -> list[Part]:
    """Writes the page, whole or not at all; gives its sections.

    Args:
        paths: folders of runs, and JSON files of `wallaroo eval shapes`, `vq` and `fid`.
        output: the file.
        scores: what official scorers gave, as `read_scores` takes it.
        pictures: number of prompts of a run whose pictures are shown, evenly over the run.
    """
    output, given = Path(output), read_scores(scores)
    if not paths and not given:
        raise ValueError("`paths` or `scores` must be given: there is nothing to report.")
    if pictures < 0:
        raise ValueError(f"`pictures` must be 0 or more, but got {pictures}.")
    if output.is_dir():
        raise ValueError(f"`output` must be a file, but {output} is a folder.")
    parts = [read_part(path, pictures=pictures) for path in paths]
    text = report_page(parts, given, title)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, output)
    return parts


def report_page(parts: Sequence[Part], scores: dict[str, float], title: str) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # prompts are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(title=title, parts=parts, tables=_tables(scores))


def _tables(scores: dict[str, float]) -> list[dict[str, Any]]:
    """The paper's tables with our numbers beside."""
    tables = []
    for table in paper_tables():
        rows = []
        for score in table.scores:
            ours, places = scores.get(score.name), table.places
            rows.append(
                {
                    "name": score.name,
                    "title": score.title,
                    "ours": "-" if ours is None else f"{ours:.{places}f}",
                    "paper": f"{score.paper:.{places}f}",
                    "difference": "" if ours is None else f"{ours - score.paper:+.{places}f}",
                    # Of the rounded difference, so that +0.00 has no colour.
                    "sign": "" if ours is None else _sign(round(ours - score.paper, places)),
                }
            )
        tables.append({"title": f"{table.title} (table {table.number})", "rows": rows})
    return tables


def _sign(value: float) -> str:
    return "" if value == 0 else "above" if value > 0 else "below"


__all__ = ["report_page", "save_report_page"]
