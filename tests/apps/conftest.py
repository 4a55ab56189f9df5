"""The embedded checkpoint, loaded once for all tests of a process that look at what people use."""

import pytest

from transformers_wallaroo.apps import Engine


@pytest.fixture(scope="session")
def engine():
    return Engine.load()
