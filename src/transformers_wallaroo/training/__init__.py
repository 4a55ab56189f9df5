# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Training: samples to batches. Never pushed to the Hub."""

from .collator import WallarooDataCollator

__all__ = ["WallarooDataCollator"]
