# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the apps: the embedded checkpoint, loaded once."""

import pytest

from transformers_wallaroo.apps import Engine


@pytest.fixture(scope="session")
def engine():
    return Engine.load()
