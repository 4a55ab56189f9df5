"""The parity fixtures of the released programs: see tests/fixtures/reference/README.md."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from transformers_wallaroo import WallarooProcessor

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
# What the fixtures' README suggests for fp32; each test states the worst difference seen.
LOGITS, GUIDED_LOGITS, LOSSES, FEATURES, DECODED = 2e-4, 5e-4, 1e-5, 2e-5, 5e-5


def case(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Strings, sizes and ids of a case, and its tensors."""
    cases = REFERENCE / "cases"
    tensors = cases / f"{name}.safetensors"
    return json.loads((cases / f"{name}.json").read_text(encoding="utf-8")), load_file(
        tensors
    ) if tensors.exists() else {}


def images(name: str) -> Image.Image:
    """A picture of the fixtures, by its file name or its path below `cases`."""
    return Image.open(REFERENCE / "cases" / "images" / Path(name).name)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Largest absolute difference below `tolerance`; the message says what it is."""
    assert actual.shape == expected.shape
    difference = (actual.detach().float() - expected.float()).abs().max().item()
    assert difference <= tolerance, f"largest difference {difference:.3g}, allowed {tolerance:.3g}"


@contextlib.contextmanager
def record_forwards(model: Any) -> Iterator[list[dict[str, Any]]]:
    """The keyword arguments of each forward of the language model, in order."""
    forwards: list[dict[str, Any]] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: forwards.append(kwargs), with_kwargs=True
    )
    try:
        yield forwards
    finally:
        hook.remove()


def assert_same(actual: Any, expected: Any) -> None:
    """The same names with the same tensors."""
    assert set(actual) == set(expected)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def variant(processor: Any, **settings: Any) -> WallarooProcessor:
    """The same processor with other settings."""
    parts = processor.image_processor, processor.tokenizer
    return WallarooProcessor(*parts, chat_template=processor.chat_template, **settings)
