# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""From scored samples to the numbers of a report. Every score is a mean of kinds, so that each kind counts the same."""

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shapes import KINDS, LANGUAGES, SIZES
from .tables import report_text

# Samples of what training shows; of combinations of shape, colour and place that it never shows; and, for drawing,
# seen ones whose prompts name places as those of held-out samples do: what held-out drawings are compared with.
SEEN, HELD_OUT, SEEN_PLACED = PARTS = ("seen", "held_out", "seen_placed")
BUCKET_NAMES = tuple(f"{height}x{width}" for height, width in SIZES)


@dataclass(frozen=True)
class ScoredSample:
    """What a model made of one sample.

    Attributes:
        task, kind, language: of the sample.
        bucket: its size, such as `"32x64"` (height x width in pixels).
        part: one of `PARTS`.
        correct: 0 or 1.
        scene: the same number for samples that show one scene and differ in their language; `None` for no such thing.
        size_exact: 0 or 1; `None` for an answer.
        preserved: share of the things left alone that are still there; `None` where there are none.
        reasons: what is wrong with a picture.
        asked: prompt or question.
        answered: the answer as it was compared; `None` for a picture.
    """

    task: str
    kind: str
    language: str
    bucket: str
    part: str
    correct: int
    scene: int | None = None
    size_exact: int | None = None
    preserved: float | None = None
    reasons: tuple[str, ...] = ()
    asked: str = ""
    answered: str | None = None


@dataclass(frozen=True)
class ShapesReport:
    """The outcome of `evaluate_shapes`. As a string it is its tables.

    Attributes:
        scored: all samples.
        scorer: what the scorer itself scores: on rendered scenes, and on scenes that went through the VQ tokenizer.
        settings: what was evaluated and how.
        choices: what `evaluate_choices` gives; empty where it was not asked for.
    """

    scored: Sequence[ScoredSample]
    scorer: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it: `overall` and the like by task, in 0..1."""
        tasks = list(dict.fromkeys(sample.task for sample in self.scored))
        seen = {task: self._of(task, SEEN) for task in tasks}
        summaries = {task: summarize(samples) for task, samples in seen.items()}
        pictures = [sample for sample in self.scored if sample.size_exact is not None]
        return {
            "overall": {task: summary["score"] for task, summary in summaries.items()},
            "standard_error": {task: summary["standard_error"] for task, summary in summaries.items()},
            "kinds": {task: _kinds(samples) for task, samples in seen.items()},
            "languages": {task: _by(samples, _language, LANGUAGES) for task, samples in seen.items()},
            "language_difference": {task: value for task in tasks if (value := language_difference(seen[task]))},
            "buckets": {task: _buckets(samples) for task, samples in seen.items()},
            "held_out": {task: self._held_out(task) for task in tasks if self._of(task, HELD_OUT)},
            "size_exact": mean([sample.size_exact for sample in pictures]),
            "preserved": mean([sample.preserved for sample in seen.get("edit", []) if sample.preserved is not None]),
            "reasons": {task: _reasons(samples) for task, samples in seen.items() if task != "understand"},
            "choices": self.choices,
            "scorer": self.scorer,
            "settings": self.settings,
        }

    def _of(self, task: str, part: str) -> list[ScoredSample]:
        return [sample for sample in self.scored if (sample.task, sample.part) == (task, part)]

    def _held_out(self, task: str) -> dict[str, Any]:
        """The score on held-out combinations beside that on seen ones that are asked for in the same way."""
        samples = self._of(task, HELD_OUT)
        score, seen = summarize(samples), summarize(self._of(task, SEEN_PLACED) or self._of(task, SEEN))
        ratio = score["score"] / seen["score"] if seen["score"] else None
        return {**score, "kinds": _kinds(samples), "seen": seen, "ratio": ratio}

    def save(self, path: str | Path) -> None:
        """Writes the report as JSON, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def __str__(self) -> str:
        return report_text(self.to_dict())


def mean(values: Sequence[float | None]) -> float | None:
    """`None` of nothing."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def summarize(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """`score`: the mean of the kinds' means; `standard_error` of it, from the spread of the scenes; `samples`: how
    many."""
    kinds: dict[str, list[ScoredSample]] = defaultdict(list)
    for sample in samples:
        kinds[sample.kind].append(sample)
    score, error = _mean_of_kinds(
        [
            ([float(sample.correct) for sample in own], [_scene(sample, place) for place, sample in enumerate(own)])
            for own in kinds.values()
        ]
    )
    return {"score": score, "standard_error": error, "samples": len(samples)}


def language_difference(samples: Sequence[ScoredSample]) -> dict[str, Any] | None:
    """`difference`: how much better the same scenes are done in Chinese than in English, -1..1, the mean of the kinds'
    means; `standard_error` of it. `None` where no scene was asked about in both."""
    scenes: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for sample in samples:
        if sample.scene is not None:
            scenes[sample.kind, sample.scene][sample.language] = sample.correct
    kinds: dict[str, list[float]] = defaultdict(list)
    for (kind, _), correct in scenes.items():
        if len(correct) == len(LANGUAGES):
            kinds[kind].append(float(correct["zh"] - correct["en"]))
    if not kinds:
        return None
    difference, error = _mean_of_kinds([(values, range(len(values))) for values in kinds.values()])
    return {"difference": difference, "standard_error": error}


def _scene(sample: ScoredSample, place: int) -> Hashable:
    """What is right or wrong together: the samples of a scene."""
    return ("alone", place) if sample.scene is None else sample.scene


def _mean_of_kinds(
    kinds: Sequence[tuple[Sequence[float], Sequence[Hashable]]],
) -> tuple[float | None, float | None]:
    """Mean of the kinds' means and its standard error; of each kind the values, and the group that each belongs to.
    Groups are independent of each other, the values in one are not."""
    if not kinds:
        return None, None
    means, variance = [], 0.0
    for values, groups in kinds:
        average = sum(values) / len(values)
        off: dict[Hashable, float] = defaultdict(float)
        for value, group in zip(values, groups, strict=True):
            off[group] += value - average
        means.append(average)
        variance += sum(total**2 for total in off.values()) / len(values) ** 2
    return sum(means) / len(means), math.sqrt(variance) / len(means)


def _by(
    samples: Sequence[ScoredSample], key: Callable[[ScoredSample], str], order: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The summary of each group that has samples."""
    groups: dict[str, list[ScoredSample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return {name: summarize(groups[name]) for name in order if name in groups}


def _buckets(samples: Sequence[ScoredSample]) -> dict[str, dict[str, Any]]:
    """The world's own sizes first."""
    names = dict.fromkeys((*BUCKET_NAMES, *(sample.bucket for sample in samples)))
    return _by(samples, lambda sample: sample.bucket, names)


def _language(sample: ScoredSample) -> str:
    return sample.language


def _kinds(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """The summary of each kind of a task, and the scores of the languages in it."""
    summaries = _by(samples, lambda sample: sample.kind, KINDS[samples[0].task])
    for kind, summary in summaries.items():
        of_kind = [sample for sample in samples if sample.kind == kind]
        summary.update({name: value["score"] for name, value in _by(of_kind, _language, LANGUAGES).items()})
    return summaries


def _reasons(samples: Sequence[ScoredSample]) -> dict[str, int]:
    """How many pictures are wrong for each reason, the commonest first; a picture may have several."""
    return dict(Counter(reason for sample in samples for reason in sample.reasons).most_common())


__all__ = [
    "HELD_OUT",
    "PARTS",
    "SEEN",
    "SEEN_PLACED",
    "ScoredSample",
    "ShapesReport",
    "language_difference",
    "summarize",
]
