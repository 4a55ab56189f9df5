# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Is a folder complete for its scorer? What a scorer does not find it passes over, or counts as wrong, in silence."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .run_files import PICTURES, RUN, picture_size, read_run
from .samples import GRID_SIDE, Benchmark, BenchmarkSample

SHOWN = 10  # files of each problem that are named
# What systems put into folders of themselves, and what the scorers write there.
NOT_OURS = (".DS_Store", "Thumbs.db", "result.json", "results.jsonl")


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found. As a string it is one line a problem.

    Attributes:
        pictures: the folder that was looked at.
        expected: number of picture files that there should be.
        sizes: (width, height) in pixels -> number of picture files.
        missing, extra, unreadable, wrong: paths relative to the folder; the last (sizes, contents) with what is wrong.
    """

    pictures: Path
    expected: int
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.extra or self.unreadable or self.wrong)

    def __str__(self) -> str:
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sorted(self.sizes.items()))
        lines = [f"{self.pictures}: {self.expected} files of pictures expected; there are {sizes or 'none'}."]
        for name in ("missing", "extra", "unreadable", "wrong"):
            found = getattr(self, name)
            if found:
                rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                lines.append(f"{name} {len(found)}: {', '.join(found[:SHOWN])}{rest}")
        lines.append("Complete." if self.complete else "Not complete.")
        return "\n".join(lines)


def check_folder(
    benchmark: Benchmark,
    folder: str | Path,
    samples: Sequence[BenchmarkSample],
    *,
    size: int | None = None,
    show_progress: bool | None = None,
) -> FolderReport:
    """Looks for each file that the scorer reads, and reads it to its end.

    Args:
        folder: that of a run, or that of the pictures.
        samples: all that should be there.
        size: side of a drawn picture in pixels; by default any, the same for all. Edits may have any size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`folder` must be that of a run or of its pictures, but there is no folder {folder}.")
    if (folder / RUN).is_file():
        folder = folder / PICTURES
    report = FolderReport(folder, sum(len(sample.pictures) for sample in samples))
    wanted = {name for sample in samples for name in sample.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    report.missing.extend(sorted(wanted - present))
    report.extra.extend(sorted(name for name in present - wanted if Path(name).name not in NOT_OURS))
    named_size = size
    with logging.tqdm(
        total=len(wanted & present), unit="file", disable=None if show_progress is None else not show_progress
    ) as bar:
        for sample in samples:
            for name in (name for name in sample.files if name in present):
                if name in sample.texts:
                    report.wrong.extend(_wrong_text(folder / name, name, sample.texts[name]))
                else:
                    named_size = _check_picture(report, folder / name, name, sample, benchmark, named_size)
                bar.update()
    return report


def samples_of_run(
    benchmark: Benchmark, folder: str | Path, *, prompts: str | None = None, **reading: Any
) -> list[BenchmarkSample]:
    """The samples that should be in a folder. What is `None` is taken from the folder's `run.json`, where there is one.

    Args:
        prompts, reading: as `benchmark.read` takes them.
    """
    run = read_run(Path(folder)) or {}
    if run and run["benchmark"] != benchmark.name:
        raise ValueError(f"`folder` {str(folder)!r} has a run of {run['benchmark']!r}, not of {benchmark.name!r}.")
    prompts = run.get("prompts") if prompts is None else prompts
    if prompts is None:
        raise ValueError(f"`prompts` must be given, since {folder} has no {RUN} that names them.")
    given = {name: value for name, value in reading.items() if value is not None}
    return benchmark.read(prompts, **{**run.get("reading", {}), **given})


def _check_picture(report, path: Path, name: str, sample, benchmark: Benchmark, size: int | None) -> int | None:
    """Adds what is wrong with a picture; gives the side that drawn pictures have."""
    try:
        width, height = picture_size(path)
    except ValueError:
        report.unreadable.append(name)
        return size
    if name in sample.pictures:
        report.sizes[width, height] = report.sizes.get((width, height), 0) + 1
    if benchmark.task == "edit":
        return size
    cells = GRID_SIDE if sample.is_grid else 1
    if size is None and width % cells == 0:
        size = width // cells
    if (width, height) != (cells * (size or 0),) * 2:
        wanted = f"{cells * size}x{cells * size}" if size else f"a grid of {cells}x{cells} squares"
        report.wrong.append(f"{name} ({width}x{height} instead of {wanted})")
    return size


def _wrong_text(path: Path, name: str, wanted: str) -> Iterator[str]:
    """A text is compared as JSON, since spaces do not matter to the scorer."""
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == json.loads(wanted)
    except ValueError:
        same = False
    if not same:
        yield f"{name} (not that of the prompts)"


__all__ = ["FolderReport", "check_folder", "samples_of_run"]
