# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: what a model answers, draws and edits, scored."""

from .report import ShapesReport
from .shapes import evaluate_shapes

__all__ = ["ShapesReport", "evaluate_shapes"]
