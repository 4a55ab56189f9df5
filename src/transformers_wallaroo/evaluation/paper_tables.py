# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The paper's tables 3 to 6 as data, and the scores that a user has got from the official scorers."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

logger = logging.get_logger(__name__)

FILE = Path(__file__).with_name("paper_tables.yaml")


@dataclass(frozen=True)
class PaperScore:
    """A number of the paper.

    Attributes:
        name: as scores are given by, such as `"geneval/overall"`.
        title: the column as the paper has it.
        paper: Wallaroo's number.
        least, most: what the scorer can give.
        lmms: task of lmms-eval -> its metric that is this score.
        times: of which this is a multiple, so often: lmms-eval gives shares for percentages.
    """

    name: str
    title: str
    paper: float
    least: float
    most: float
    lmms: Mapping[str, str] = field(default_factory=dict, hash=False)
    times: float = 1


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, its row of Wallaroo.

    Attributes:
        name: what the names of its scores begin with; of pictures, the benchmark's.
        number: in the paper.
        title: what is scored.
        places: digits behind the point.
        scores: the columns.
    """

    name: str
    number: int
    title: str
    places: int
    scores: tuple[PaperScore, ...]


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """Tables 3 to 6."""
    tables = []
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        scores = tuple(
            PaperScore(
                f"{entry['name']}/{name}",
                column["title"],
                float(column["paper"]),
                least=float(column["range"][0]),
                most=float(column["range"][1]),
                lmms=column.get("lmms", {}),
                times=column.get("times", 1),
            )
            for name, column in entry["columns"].items()
        )
        tables.append(PaperTable(entry["name"], entry["number"], entry["title"], entry["places"], scores))
    return tuple(tables)


def read_scores(given: Iterable[str]) -> dict[str, float]:
    """Scores by name, such as `{"geneval/overall": 0.75}`.

    Args:
        given: each a `NAME=VALUE`, or a JSON file with an object of such names, or of tables with their columns:
            `{"geneval": {"overall": 0.75}}`; or the results that lmms-eval writes (`*_results.json`).
    """
    known = {score.name: score for table in paper_tables() for score in table.scores}
    found: dict[str, float] = {}
    for entry in given:
        for name, value in _entries(entry):
            if name not in known:
                raise ValueError(
                    f"`scores` must be of the paper's tables, but {entry!r} has {name!r}. There are: "
                    f"{', '.join(known)}."
                )
            if name in found:
                raise ValueError(f"`scores` has {name!r} twice, the second time in {entry!r}.")
            found[name] = _checked(known[name], value, entry)
    return found


def _entries(entry: str) -> Iterator[tuple[str, Any]]:
    """Names and values of one argument."""
    name, equals, value = entry.partition("=")
    if equals and not Path(entry).exists():
        yield name.strip(), value
        return
    path = Path(entry)
    if not path.is_file():
        raise ValueError(f"`scores` must be NAME=VALUE or a JSON file, but {entry!r} has no '=' and is no file.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`scores` must be NAME=VALUE or a JSON file, but {entry} is no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"`scores` must be files of a JSON object of names and numbers, but {entry} holds none.")
    if isinstance(content.get("results"), Mapping):
        yield from _lmms_entries(entry, content)
        return
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{column}", number) for column, number in value.items())
        else:
            yield name, value


def _lmms_entries(entry: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of what lmms-eval writes: `results` -> task -> `METRIC,FILTER` -> number."""
    of_task = {task: score for table in paper_tables() for score in table.scores for task in score.lmms}
    known = [task for task in content["results"] if task in of_task]
    others = [task for task in content["results"] if task not in of_task]
    if not known:
        raise ValueError(
            f"`scores` of lmms-eval must have tasks of the paper's table 3, but {entry!r} has "
            f"{', '.join(map(repr, others)) or 'none'}. There are: {', '.join(of_task)}."
        )
    if others:
        logger.warning(f"{entry}: {', '.join(others)} are in none of the paper's tables, and not on the page.")
    for task in known:
        score, metric = of_task[task], of_task[task].lmms[task]
        _check_whole(entry, task, content.get("n-samples"))
        metrics = content["results"][task]
        found = [value for key, value in _items(metrics) if key.partition(",")[0] == metric]
        if len(found) != 1:
            raise ValueError(
                f"`scores` of lmms-eval must have one {metric!r} of {task!r}, but {entry!r} has {len(found)} among "
                f"{', '.join(repr(key) for key, _ in _items(metrics)) or 'nothing'}."
            )
        [value] = found
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        yield score.name, value * score.times if is_number else value


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _check_whole(entry: str, task: str, samples: Any) -> None:
    """Raises where a task was run in part: its score is not the benchmark's."""
    counts = dict(_items(dict(_items(samples)).get(task)))
    if counts.get("effective") != counts.get("original"):
        raise ValueError(
            f"`scores` of {task!r} in {entry!r} are of {counts.get('effective')} of its {counts.get('original')} "
            "samples (--limit), which does not go beside the paper's number. Run it whole, or say NAME=VALUE."
        )


def _checked(score: PaperScore, value: Any, entry: str) -> float:
    try:
        # True is an int in Python, but no score.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not score.least <= number <= score.most:
        raise ValueError(
            f"`scores` has {value!r} for {score.name!r} ({entry}), which must be a number from {score.least:g} to "
            f"{score.most:g}: the paper's is {score.paper:g}. Is it a percentage, or a share?"
        )
    return number


__all__ = ["PaperScore", "PaperTable", "paper_tables", "read_scores"]
