# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the sources of a mixture hold: some samples of each, read and encoded as in training, and what they are like."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from transformers.utils import logging

from ...image_grid_wallaroo import TokenType
from ...processing_wallaroo import WallarooProcessor
from ...prompts_wallaroo import IMAGE_PLACEHOLDER
from ..collator import WallarooDataCollator
from ..conversations import turns_of
from ..mixture import MOST_UNWANTED, mix, whole_ratio, with_one_prompt
from ..preview import contact_sheet
from ..recipes import read_recipe
from ..sources import open_source, source_entries
from ..stages import StageConfig, load_processor, prepare_processor, read_data
from .drops import FAULTS, DroppedSample
from .screening import ScreenedDataset, text_of

SHOWN = 6  # samples of a source on the contact sheet
NAMED_DROPS = 3  # left-out samples of each reason that are named
FEW_PASS = 0.05  # share of the samples that pass the filters; a remark is made where it is below
THUMBNAIL = 256  # pixels, longest side


@dataclass
class SourceCheck:
    """What was found in one source.

    Attributes:
        task, name: of the source.
        size: samples it has; 0 where it cannot be opened.
        share: of the samples of its task in the mixture.
        read: samples that were tried.
        kept: samples of these that can be learned.
        dropped: of the others, how many by reason; `faults` of them are broken.
        examples: a few words on the first ones that were dropped, by reason.
        notes: on the files themselves.
        widths, heights: of all pictures, in pixels.
        tokens: of each sample; `text_tokens` of them are text.
        buckets: sizes, `height x width` in pixels, in which images are learned -> how many.
        max_dropped: share of them that may be broken.
        error: what stopped the reading, if anything did.
        shown: caption and pictures of some samples.
    """

    task: str
    name: str
    size: int = 0
    share: float = 1.0
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    buckets: Counter[str] = field(default_factory=Counter)
    max_dropped: float = 1.0
    error: str | None = None
    shown: list[tuple[str, list[Image.Image]]] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return sum(self.dropped[reason] for reason in FAULTS)

    @property
    def too_many_faults(self) -> bool:
        """Whether more is broken than the source may have."""
        return self.faults > self.max_dropped * self.read

    @property
    def failed(self) -> bool:
        """Whether one cannot train on the source."""
        return self.error is not None or not self.kept or self.too_many_faults

    @property
    def ratios(self) -> list[float]:
        """Width over height of each picture."""
        return [width / height for width, height in zip(self.widths, self.heights, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, without the pictures."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "shown"}


def open_mixture(path: Path, checkpoint: str | None = None) -> tuple[dict[str, Any], WallarooDataCollator, bool]:
    """What a YAML file has under `data`, a collator for it, and whether the file is a whole recipe.

    With a recipe the collator has its sizes and limits. A mixture alone has no limits.

    Args:
        checkpoint: whose processor; by default the recipe's `init`, or the embedded `wallaroo-tiny`.
    """
    from ...embedded import tiny_path

    whole = "stage" in read_recipe(path)
    if not whole:
        processor = WallarooProcessor.from_pretrained(checkpoint or tiny_path())
        return read_data(path), WallarooDataCollator(processor, unconditional_probability=0), False
    config = StageConfig.load(path)
    if checkpoint is None:
        processor = load_processor(config)
    else:
        processor = prepare_processor(WallarooProcessor.from_pretrained(checkpoint), config)
    collator = WallarooDataCollator(
        processor,
        unconditional_probability=0,
        limits=config.limits,
        min_side=config.min_side,
        max_ratio=config.max_ratio,
    )
    return config.data, collator, True


def check_mixture(
    data: Mapping[str, Any],
    collator: WallarooDataCollator,
    *,
    samples: int = 100,
    seed: int = 0,
    show_progress: bool = True,
) -> list[SourceCheck]:
    """Reads samples of each source, drawn at random, decodes their pictures and encodes them.

    Args:
        data: task -> source or list of sources, as a recipe has it.
        collator: its processor and limits decide what is kept and how long it is.
        samples: most of each source; all where it has no more.
        seed: which ones.
    """
    checks = []
    for task, name, entry, share in _sources(data):
        check = SourceCheck(task, name, share=share)
        checks.append(check)
        try:
            source = open_source(task, entry, samples)
            inner = source
            if isinstance(source, ScreenedDataset):
                inner, source.named = source.source, 0  # they are named in `examples`
                check.max_dropped, source.max_dropped = source.max_dropped, 1  # all that is broken is to be counted
            check.size = len(source)
            check.notes = list(getattr(inner, "notes", []))
            chosen = sorted(random.Random(seed).sample(range(len(source)), min(samples, len(source))))
            title = f"reading {task}/{name}"
            for index in logging.tqdm(chosen, desc=title, unit="sample", leave=False, disable=not show_progress):
                _add(check, source, index, collator, seed)
        # Readers of files raise what they like, and the other sources are to be checked whatever it was.
        except Exception as error:  # noqa: BLE001
            check.error = _said(error)
        passed = check.read - check.dropped["filtered"]
        if passed < FEW_PASS * check.read:
            check.notes.append(
                f"{passed} of {check.read} samples pass the filters: a run reads the others in vain, and stops where "
                f"{MOST_UNWANTED:,} in a row do not pass"
            )
    return checks


def _said(error: Exception) -> str:
    """What an error says; of one that is not ours also what it is and what it comes from."""
    if isinstance(error, ValueError):
        return str(error)
    cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {error}{cause}"


def _sources(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], float]]:
    """Task, name, entry and share of the task of each source."""
    for task, entries in data.items():
        named = source_entries(task, entries)
        ratio = whole_ratio({name: entry.get("weight", 1) for name, entry in named.items()})
        for name, entry in named.items():
            yield task, name, entry, ratio[name] / sum(ratio.values())


def _add(check: SourceCheck, source: Any, index: int, collator: WallarooDataCollator, seed: int) -> None:
    """Reads one sample and adds it to what is known."""
    check.read += 1
    try:
        sample = with_one_prompt(dict(source[index]), mix(seed, index))
        sample["seed"] = mix(seed, index)
        name = source.name_of(index) if hasattr(source, "name_of") else f"{check.name}[{index}]"
        encoded = collator.encode({**sample, "origin": name})
    except DroppedSample as error:
        check.dropped[error.reason] += 1
        named = check.examples.setdefault(error.reason, [])
        if len(named) < NAMED_DROPS:
            named.append(str(error))
        return
    check.kept += 1
    pictures = _pictures(sample)
    check.widths += [picture.width for picture in pictures]
    check.heights += [picture.height for picture in pictures]
    check.tokens.append(len(encoded.ids))
    check.text_tokens.append(int((np.asarray(encoded.types) == TokenType.TEXT).sum()))
    if encoded.size is not None:
        check.buckets[f"{encoded.size[0]} x {encoded.size[1]}"] += 1
    if len(check.shown) < SHOWN:
        shown = []
        for picture in pictures[:3]:
            thumbnail = picture.copy()
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
            shown.append(thumbnail)
        text = text_of(sample).replace(IMAGE_PLACEHOLDER, "").replace("\n", " ")
        # The font of the sheet has no other letters.
        check.shown.append((text if re.search("[A-Za-z]", text) else f"({len(text)} characters, not Latin)", shown))


def _pictures(sample: Mapping[str, Any]) -> list[Image.Image]:
    """The pictures of a sample: source before image, or those of its conversation."""
    found = [sample.get("source_image"), sample.get("image"), *(sample.get("images") or [])]
    if sample["task"] == "understand" and not any(isinstance(picture, Image.Image) for picture in found):
        found = turns_of(sample, 0)[1] if IMAGE_PLACEHOLDER not in text_of(sample) else []
    return [picture for picture in found if isinstance(picture, Image.Image)]


def draw_sheet(checks: list[SourceCheck], path: Path) -> None:
    """Writes a contact sheet: a row or two of samples for each source, under its name."""
    sheets = []
    for check in checks:
        title = f"{check.task} / {check.name}: {check.size:,} samples"
        entries = check.shown or [("nothing to show", [])]
        sheets.append(contact_sheet(entries, title=title, columns=3 if check.task != "generate" else SHOWN))
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(sheet.height for sheet in sheets)), sheets[0].getpixel((0, 0)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    whole.save(partial, "png")
    partial.replace(path)


def spread_of(values: list[Any]) -> str:
    """Least, middle and most."""
    if not values:
        return "-"
    low, middle, high = min(values), median(values), max(values)
    if isinstance(low, float):
        return f"{low:.2f} - {middle:.2f} - {high:.2f}"
    return f"{low:,}" if low == high else f"{low:,} - {round(middle):,} - {high:,}"


__all__ = ["SourceCheck", "check_mixture", "draw_sheet", "open_mixture", "spread_of"]
