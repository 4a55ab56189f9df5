# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""docs/data.md: its mixture and the line of each set name layouts and options that are there."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from transformers_wallaroo.training.data import conversations, imagenet, layouts
from transformers_wallaroo.training.data.drops import DROP_REASONS
from transformers_wallaroo.training.data.screening import Filters
from transformers_wallaroo.training.sources import SOURCES, FolderDataset, JsonLinesDataset, source_entries

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
CLASSES = {
    "llava": conversations.Llava,
    "commonsense_qa": conversations.CommonsenseQA,
    "imagenet": imagenet.ImageNet,
    "webdataset": layouts.CaptionTars,
    "sharegpt4o_image": layouts.PromptedImages,
    "opengpt4o_image": layouts.PromptedImages,
    "gpt_image_edit": layouts.GPTImageEdit,
    "parquet": layouts.OwnTable,
    "folder": FolderDataset,
    "jsonl": JsonLinesDataset,
}
LINES = re.findall(r"\| `(\w+: \{path.*\})` \|$", PAGE, flags=re.MULTILINE)


def check(entry):
    [(name, one)] = source_entries("generate", entry).items()
    layout = next(key for key in one if key in SOURCES)
    assert set(one[layout]) <= set(inspect.signature(CLASSES[layout]).parameters), name
    Filters.from_dict(one.get("filters") or {})
    return layout


@pytest.mark.parametrize("line", LINES)
def test_the_line_of_each_set_is_an_entry(line):
    check(yaml.safe_load(line))


def test_every_layout_has_a_line():
    assert {check(yaml.safe_load(line)) for line in LINES} == set(CLASSES) == set(SOURCES) - {"shapes", "encoded"}


def test_the_mixture_is_one():
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    for task, entries in yaml.safe_load(text)["data"].items():
        for entry in entries if isinstance(entries, list) else [entries]:
            check(entry)
        source_entries(task, entries)


def test_reasons_and_filters_are_all_told():
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert set(DROP_REASONS) - {"too_long", "too_small"} <= told
    assert set(Filters.__dataclass_fields__) - {"where"} <= told and "where: {" in PAGE
