# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""In which settings a benchmark is run: the checkpoint's own, those of the paper, and what a user changes."""

from collections.abc import Mapping
from typing import Any

from .samples import Benchmark

# docs/protocol.md sections 4, 8 and 9: the published numbers were made in the evaluation layout, with English
# templates, at 512 x 512 or, for edits, at the size nearest to the source's shape. A benchmark names what it has
# otherwise.
PAPER: dict[str, Any] = {
    "layout": "evaluation",
    "language": "en",
    "do_sample": True,
    "guidance_scale": 3.0,
    "temperature": 1.0,
    "top_k": 1000,
    "top_p": 1.0,
}
PAPER_SIZE = 512  # pixels, of a picture that is drawn
# What `processor` takes; the rest is for `model.generate`.
OF_PROMPTS = ("size", "layout", "language")
NAMES = (*PAPER, "size")


def settings_for(benchmark: Benchmark, *, paper: bool = False, **given: Any) -> dict[str, Any]:
    """The settings of a run as `run.json` has them; what nothing is said of is left to the checkpoint.

    Args:
        paper: take the paper's settings.
        given: changes to them, by the names in `NAMES`; `None` changes nothing. `size` is in pixels, of squares.
    """
    unknown = sorted(set(given) - set(NAMES))
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no setting of a benchmark; there are {', '.join(NAMES)}.")
    changes = {name: value for name, value in given.items() if value is not None}
    if benchmark.task == "edit" and "size" in changes:
        raise ValueError(
            f"`size` is for benchmarks that draw, but {benchmark.title} edits: a picture is edited at the trained size "
            "nearest to its shape."
        )
    settings: dict[str, Any] = {}
    if paper:
        size = {} if benchmark.task == "edit" else {"size": PAPER_SIZE}
        settings = {**PAPER, **size, **benchmark.paper}
    departures = {name: value for name, value in changes.items() if paper and settings.get(name) != value}
    return {"paper": paper, "departures": sorted(departures), **settings, **changes}


def generate_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those for `model.generate`."""
    return {name: settings[name] for name in PAPER if name in settings and name not in OF_PROMPTS}


def template_of(settings: Mapping[str, Any], task: str, processor: Any) -> str | None:
    """The template that all prompts take, or `None` for the first one of each prompt's language."""
    language = settings.get("language")
    if language is None:
        return None
    templates = processor.templates[task].get(language)
    if not templates:
        raise ValueError(f"The checkpoint has no templates of {task!r} in the language {language!r}.")
    return templates[0]


__all__ = ["NAMES", "PAPER", "PAPER_SIZE", "generate_options", "settings_for", "template_of"]
