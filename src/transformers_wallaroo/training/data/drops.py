# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Why samples are left out."""

# In the order in which `batch["dropped"]` counts. The first three are the recipe's limits.
DROP_REASONS = (
    "too_long",
    "too_small",
    "bad_ratio",
    "filtered",
    "unsupported",
    "unreadable",
    "missing_file",
    "mismatch",
)
# What is wrong with the data itself, and may be so only now and then: `max_dropped` is about these.
FAULTS = ("bad_ratio", "unreadable", "missing_file", "mismatch")


class DroppedSample(ValueError):
    """A sample that is left out; `reason` is one of `DROP_REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        assert reason in DROP_REASONS, reason
        self.reason = reason
