"""The embedded checkpoint, loaded once for all tests of a process that look at what people use."""

import pytest

from transformers_wallaroo.apps import Engine
from transformers_wallaroo.apps.page import Session


@pytest.fixture(scope="session")
def engine():
    return Engine.load()


@pytest.fixture
def session():
    """What one visitor of the page has."""
    session = Session()
    yield session
    session.close()
