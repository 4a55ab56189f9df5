"""An untrained checkpoint of the shapes world."""

from pathlib import Path

import pytest

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation import shapes

from untrained import save_untrained


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("untrained") / "wallaroo")


@pytest.fixture(scope="session")
def untrained_model(untrained):
    """Model and processor."""
    return load_checkpoint(untrained)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """An untrained model does not stop of itself."""
    monkeypatch.setattr(shapes, "MAX_NEW_TOKENS", 6)
