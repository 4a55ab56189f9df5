"""Fixtures that every test may use: the parity fixtures, converted once, and what loads from them."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import convert_checkpoint
from reference import REFERENCE, images

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    """What a test has run may have set another number, and a process that is forked would wait for those threads."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The fixtures' released files as a Wallaroo folder, in fp32."""
    output = tmp_path_factory.mktemp("converted") / "wallaroo"
    convert_checkpoint.convert(
        REFERENCE / "base", REFERENCE / "wallaroo.ckpt", REFERENCE / "vq_ds16_t2i.pt", output, torch.float32
    )
    return output


@pytest.fixture(scope="session")
def shared_model(converted):
    return AutoModel.from_pretrained(converted).eval()


@pytest.fixture
def model(shared_model):
    """The converted model; a test that changes it must load its own."""
    shared_model.eval()
    return shared_model


@pytest.fixture(scope="session")
def processor(converted):
    return AutoProcessor.from_pretrained(converted)


@pytest.fixture
def picture() -> Image.Image:
    """A real picture of 150 x 100 pixels (width x height)."""
    return images("understand.png")


@pytest.fixture
def other() -> Image.Image:
    """Another picture, of 90 x 210 pixels (width x height): 16 x 6 patches, 24 tokens."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (210, 90, 3), dtype=np.uint8))
