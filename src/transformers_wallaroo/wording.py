# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What people read of an error. It imports nothing, so that a command that is refused waits for nothing."""

import re


def sentence(error: BaseException) -> str:
    """What an error says, on one line; its name where it says nothing. That of a worker of a data loader says it at the
    end of its own traceback."""
    text, kind = str(error), type(error).__name__
    if "Original Traceback" in text:
        text = re.split(rf"^(?:\w+\.)*{kind}: ", text, flags=re.MULTILINE)[-1]
    return " ".join(text.split()) or kind


__all__ = ["sentence"]
