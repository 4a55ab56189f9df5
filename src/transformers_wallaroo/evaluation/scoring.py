# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples that are scored: shared by processes, and a file a batch, so that a stopped run goes on.

Batches are planned before it is known which of them are done, and are the same in every process: a sample stands beside
the same others whatever the number of processes and however often the run was stopped. Scores are put together in the
order of the samples.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from transformers.utils import logging

from .processes import Processes
from .report import ScoredSample
from .run_files import PARTIAL, write_whole

logger = logging.get_logger(__name__)

SCORED = "scored"


@dataclass(frozen=True)
class ScoringJob:
    """Samples of a kind, in one order.

    Attributes:
        name: of the job among others, and of its files.
        title: for the progress bar.
        count: how many samples.
        score: the scores of those from a first one up to, but without, a last one.
    """

    name: str
    title: str
    count: int
    score: Callable[[int, int], Sequence[ScoredSample]]


class ScoredStore:
    """Scores in a folder: a JSON file a batch, named by its job and its first sample, whole or not there."""

    def __init__(self, output: Path):
        self.folder, self.partial = output / SCORED, output / PARTIAL

    def known(self, name: str) -> dict[int, ScoredSample]:
        """The scores of a job, by the place of the sample."""
        known: dict[int, ScoredSample] = {}
        for path in self.folder.glob(f"{name}-*.json"):
            known.update(enumerate(_read(path), int(path.stem.removeprefix(f"{name}-"))))
        return known

    def remove_damaged(self) -> None:
        for path in sorted(self.folder.glob("*.json")):
            try:
                _read(path)
            except (ValueError, TypeError, KeyError) as error:
                logger.warning(f"{path} is damaged ({error}); its samples are scored anew.")
                path.unlink()

    def add(self, name: str, first: int, scored: Sequence[ScoredSample]) -> None:
        text = json.dumps([asdict(sample) for sample in scored], indent=1, ensure_ascii=False) + "\n"
        write_whole(self.folder / f"{name}-{first:06}.json", text, partial=self.partial)


def _read(path: Path) -> list[ScoredSample]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [ScoredSample(**{**entry, "reasons": tuple(entry["reasons"])}) for entry in entries]


def score_jobs(
    jobs: Sequence[ScoringJob],
    *,
    batch_size: int,
    show_progress: bool | None = None,
    processes: Processes | None = None,
    store: ScoredStore | None = None,
) -> dict[str, list[ScoredSample]]:
    """The scores of each job by its name, in the order of its samples; in all processes.

    Args:
        processes: share the batches; by default this one does all.
        store: where scores are kept, and those that are there taken from.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}.")
    rank, count = (0, 1) if processes is None else (processes.rank, processes.count)
    known = {job.name: {} if store is None else store.known(job.name) for job in jobs}
    planned = [
        (job, range(start, min(start + batch_size, job.count)))
        for job in jobs
        for start in range(0, job.count, batch_size)
    ][rank::count]
    todo = [(job, part) for job, batch in planned for part in _missing(batch, known[job.name])]
    total = sum(len(batch) for _, batch in planned)
    made: dict[str, dict[int, ScoredSample]] = {job.name: {} for job in jobs}
    with logging.tqdm(
        total=total,
        initial=total - sum(len(part) for _, part in todo),
        unit="sample",
        position=rank,
        # `disable=None` is tqdm's own "only on a terminal".
        disable=None if show_progress is None else not show_progress,
    ) as bar:
        for job, part in todo:
            bar.set_description(job.title)
            scored = job.score(part.start, part.stop)
            made[job.name].update(zip(part, scored, strict=True))
            if store is not None:
                store.add(job.name, part.start, scored)
            bar.update(len(part))
    for of_process in [made] if processes is None else processes.gather(made):
        for name, scores in of_process.items():
            known[name].update(scores)
    return {job.name: [known[job.name][place] for place in range(job.count)] for job in jobs}


def _missing(batch: range, known: Collection[int]) -> Iterator[range]:
    """What of a batch is not known, in parts without a gap: a picture's seed goes by its place."""
    for is_known, places in groupby(batch, key=lambda place: place in known):
        if not is_known:
            first, *more = places
            yield range(first, first + len(more) + 1)


__all__ = ["SCORED", "ScoredStore", "ScoringJob", "score_jobs"]
