# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What people read of an error."""

import pytest

from transformers_wallaroo.wording import sentence

WORKER = """Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "a.py", line 1, in f
    raise ValueError(text)
ValueError: `codes` must be there,
but are not.
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("`height` must\n be 16 "), "`height` must be 16"),
        (RuntimeError(), "RuntimeError"),
        (ValueError(WORKER), "`codes` must be there, but are not."),
    ],
)
def test_an_error_is_one_line(error, said):
    assert sentence(error) == said
