# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""One data set of several, in a stated ratio of tasks and in an order that depends on nothing but the seed."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from .data.drops import FAULTS, DroppedSample

# Samples of a source that may be left out one after the other: for a fault, and because they are not wanted. Filters
# may keep few; one that keeps 1 in 100 leaves out so many in a row once in 10^43 times.
MOST_FAULTS = 100
MOST_UNWANTED = 10_000


class MixtureDataset(Dataset):
    """Samples of several sources in a fixed ratio.

    Position `p` is always the same sample: sources take turns in a fixed pattern, each goes through its samples in an
    order shuffled anew every time it has been seen whole, and every sample gets a `seed` of its own for the collator,
    and its `origin`, such as `"generate[17]"`, for whoever must find it.
    A sample that its source leaves out (`DroppedSample`) is counted in `dropped` of the sample that takes its place,
    another of the same source, which depends on the position alone. Of a `prompt` that is a list one is drawn.
    A run that stopped goes on at any position, and however many processes or workers share the positions, together
    they see the same samples.

    Args:
        sources: name -> samples by index (`len` and `[]`).
        ratio: name -> samples in every turn of the pattern, such as `{"generate": 4, "understand": 1}`.
        length: positions in all.
        seed: of the order and of what the collator draws at random.
        shuffle: `False` takes each source in its own order (sources that are random by themselves). A source that is a
            `MixtureDataset` is always taken in its order.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Mapping[str, Any]]],
        ratio: Mapping[str, int],
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ):
        if set(ratio) != set(sources):
            raise ValueError(f"`ratio` must name the sources {sorted(sources)}, but names {sorted(ratio)}.")
        wrong = {name: count for name, count in ratio.items() if not isinstance(count, int) or count < 1}
        if wrong or not ratio:
            raise ValueError(f"`ratio` must be whole numbers of samples from 1 on, but got {dict(ratio)!r}.")
        empty = [name for name, source in sources.items() if len(source) == 0]
        if empty:
            raise ValueError(f"`sources` must have samples, but {', '.join(map(repr, empty))} has none.")
        self.sources = dict(sources)
        self.pattern = spread(ratio)
        self._a_turn = Counter(self.pattern)
        counted: Counter[str] = Counter()
        self._before = []  # for each place of the pattern, how often its source came before
        for place in self.pattern:
            self._before.append(counted[place])
            counted[place] += 1
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self._orders: dict[str, tuple[int, torch.Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, Any]:
        name, index = self.locate(position)
        seed = mix(self.seed, position)
        dropped: Counter[str] = Counter()
        for attempt in itertools.count():
            origin = f"{name}[{index}]"
            try:
                sample = dict(self.sources[name][index])
                break
            except DroppedSample as error:
                dropped[error.reason] += 1
                faults = sum(dropped[reason] for reason in FAULTS)
                if faults >= MOST_FAULTS or dropped.total() - faults >= MOST_UNWANTED:
                    raise ValueError(
                        f"Of {name!r} {dropped.total()} samples in a row were left out ({dict(dropped)}), the last "
                        f"one: {error} Are its filters too narrow?"
                    ) from error
                index = mix(seed, attempt) % len(self.sources[name])
            except Exception as error:
                raise ValueError(f"Sample {origin} cannot be read: {type(error).__name__}: {error}") from error
        dropped.update(sample.get("dropped") or {})
        sample.update(seed=seed, origin=f"{name}/{sample['origin']}" if "origin" in sample else origin)
        if dropped:
            sample["dropped"] = dict(dropped)
        return with_one_prompt(sample, seed)

    def locate(self, position: int) -> tuple[str, int]:
        """Source and index in it of the sample at `position`."""
        if not 0 <= position < self.length:
            raise IndexError(f"`position` must be in [0, {self.length}), but got {position}.")
        turn, place = divmod(position, len(self.pattern))
        name = self.pattern[place]
        count = turn * self._a_turn[name] + self._before[place]
        size = len(self.sources[name])
        epoch, index = divmod(count, size)
        shuffled = self.shuffle and not isinstance(self.sources[name], MixtureDataset)
        return name, int(self._order(name, epoch, size)[index]) if shuffled else index

    def length_of(self, position: int) -> int:
        """About how long the sample at `position` is, where its source says so; else samples of a task go together."""
        name, index = self.locate(position)
        source = self.sources[name]
        return source.length_of(index) if hasattr(source, "length_of") else list(self.sources).index(name)

    def _order(self, name: str, epoch: int, size: int) -> torch.Tensor:
        if self._orders.get(name, (-1, None))[0] != epoch:
            place = list(self.sources).index(name)
            generator = torch.Generator().manual_seed(mix(self.seed, epoch * len(self.sources) + place))
            self._orders[name] = epoch, torch.randperm(size, generator=generator)
        return self._orders[name][1]


def with_one_prompt(sample: dict[str, Any], seed: int) -> dict[str, Any]:
    """The sample with one prompt, drawn by the seed, where it has a list of them."""
    prompts = sample.get("prompt")
    if not isinstance(prompts, (list, tuple)) or not prompts:
        return sample
    return {**sample, "prompt": prompts[mix(seed, 0) % len(prompts)]}


def whole_ratio(weights: Mapping[str, float], turn: int = 1000) -> dict[str, int]:
    """Weights as the whole numbers of samples of a turn: exact where a turn of at most `turn` samples holds them."""
    values = {name: Fraction(str(weight)) for name, weight in weights.items()}
    common = math.lcm(*(value.denominator for value in values.values()))
    whole = {name: int(value * common) for name, value in values.items()}
    divisor = math.gcd(*whole.values())
    whole = {name: count // divisor for name, count in whole.items()}
    total = sum(whole.values())
    if total <= turn:
        return whole
    return {name: max(round(count * turn / total), 1) for name, count in whole.items()}


def spread(ratio: Mapping[str, int]) -> list[str]:
    """The names of one turn, each as often as `ratio` says and as evenly spread as can be."""
    places = [((index + 0.5) / count, name) for name, count in ratio.items() for index in range(count)]
    return [name for _, name in sorted(places, key=lambda place: place[0])]


def mix(seed: int, number: int) -> int:
    """A 63-bit seed made of two numbers, far from that of their neighbours (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) >> 1


class LengthGroupedSteps(Sampler):
    """The positions of a data set in order, but those of one optimizer step sorted by length.

    The batches that a step is made of so hold samples of like length and little padding. The step as a whole holds the
    same samples as without, and `WallarooTrainer`'s loss does not depend on how they are split.

    Args:
        dataset: a data set whose `length_of(position)` says about how long a sample is, in any unit.
        samples_a_step: samples of an optimizer step, on all processes.
    """

    def __init__(self, dataset: Any, samples_a_step: int):
        self.dataset = dataset
        self.samples_a_step = samples_a_step

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self):
        for start in range(0, len(self.dataset), self.samples_a_step):
            step = range(start, min(start + self.samples_a_step, len(self.dataset)))
            yield from sorted(step, key=self.dataset.length_of)


class PaddedDataset(Dataset):
    """A data set with `None` for samples after its end, which the collator passes over.

    Processes evaluate batches of the same number; by itself a data loader fills them up with samples seen before, which
    would then count twice.
    """

    def __init__(self, dataset: Any, multiple: int):
        self.dataset = dataset
        self.length = -(-len(dataset) // multiple) * multiple

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index] if index < len(self.dataset) else None
