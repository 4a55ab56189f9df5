# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A world to learn: scenes of coloured shapes, samples of the three tasks about them, and a scorer. No torch."""

from .asks import STEPS, Ask, Look, stands
from .dialogue import Turn
from .language import LANGUAGES, corpus, words
from .samples import KINDS, SIZES, TASKS, ShapesDataset, make_sample
from .scorer import Reading, read_scene, score, score_edit, score_generate, score_understand, scorer_report
from .world import BACKGROUNDS, BUCKETS, CELL, COLORS, HELD_OUT, PLACES, SHAPES, STYLES, Scene, Thing, render

__all__ = [
    "BACKGROUNDS",
    "BUCKETS",
    "CELL",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "LANGUAGES",
    "PLACES",
    "SHAPES",
    "SIZES",
    "STEPS",
    "STYLES",
    "TASKS",
    "Ask",
    "Look",
    "Reading",
    "Scene",
    "ShapesDataset",
    "Thing",
    "Turn",
    "corpus",
    "make_sample",
    "read_scene",
    "render",
    "score",
    "score_edit",
    "score_generate",
    "score_understand",
    "scorer_report",
    "stands",
    "words",
]
