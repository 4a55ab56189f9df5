# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The very small model of `small.py`, built once."""

import copy
from pathlib import Path

import pytest

from small import build_small


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A checkpoint of the very small model, with its processor."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    model, processor = build_small()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_small():
    return build_small()


@pytest.fixture
def small_model(shared_small):
    """A model of the test's own."""
    return copy.deepcopy(shared_small[0]).train()


@pytest.fixture
def small_processor(shared_small):
    """A processor of the test's own."""
    return copy.deepcopy(shared_small[1])
