# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a benchmark asks for: its samples, the files that they become, and the settings in which the paper has them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from PIL import Image

GRID_SIDE = 2  # pictures along each side of a grid


@dataclass(frozen=True)
class BenchmarkSample:
    """A prompt of a benchmark.

    Attributes:
        key: names the prompt within the benchmark. Its seeds hang on it, and not on what else is asked.
        where: where it was read, for messages, such as `"metadata.jsonl, line 3"`.
        prompt: the prompt or instruction.
        pictures: the files that its pictures go into, relative to the folder of the scorer.
        is_grid: whether a file holds four pictures, two by two.
        source: gives the picture to be edited; `None` for drawing.
        source_copy: file for the source, where the scorer wants it beside the result.
        source_shown: gives the picture for that file; the source itself by default.
        texts: other files and what they hold.
    """

    key: str
    where: str
    prompt: str
    pictures: tuple[str, ...]
    is_grid: bool = False
    source: Callable[[], Image.Image] | None = None
    source_copy: str | None = None
    source_shown: Callable[[], Image.Image] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """All files that the scorer is to find."""
        return [*self.pictures, *([self.source_copy] if self.source_copy else []), *self.texts]


@dataclass(frozen=True)
class Job:
    """One file of pictures to be made."""

    sample: BenchmarkSample
    number: int  # which of the sample's files

    @property
    def path(self) -> str:
        return self.sample.pictures[self.number]

    @property
    def pictures(self) -> int:
        return GRID_SIDE**2 if self.sample.is_grid else 1

    def seeds(self, benchmark: str, seed: int) -> list[int]:
        """A seed a picture, made of the run's seed and of what the picture is alone."""
        first = self.number * self.pictures
        names = (f"{benchmark}/{self.sample.key}/{first + index}/{seed}" for index in range(self.pictures))
        return [int.from_bytes(sha256(name.encode()).digest()[:6], "big") for name in names]


def jobs_of(samples: Sequence[BenchmarkSample]) -> Iterator[Job]:
    return (Job(sample, number) for sample in samples for number in range(len(sample.pictures)))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: as the command has it.
        title: as its authors have it.
        task: `"generate"` or `"edit"`.
        read: its samples, from the prompts that a user names; the options are those of the command.
        paper: settings of the paper beside those that all benchmarks share.
        published: number of prompts in the published set, where it is known.
    """

    name: str
    title: str
    task: str
    read: Callable[..., list[BenchmarkSample]]
    paper: Mapping[str, Any] = field(default_factory=dict)
    published: int | None = None


def paste_grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures of one size, row by row, without gaps."""
    width, height = pictures[0].size
    grid = Image.new("RGB", (GRID_SIDE * width, GRID_SIDE * height))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, GRID_SIDE)
        grid.paste(picture, (column * width, row * height))
    return grid


__all__ = ["Benchmark", "BenchmarkSample", "Job", "jobs_of", "paste_grid"]
