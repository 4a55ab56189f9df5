# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Whether a model answers, draws or edits when it should (`task="auto"`), in talks of the shapes world."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..auto_wallaroo import PictureMarks, write_texts
from ..conversations_wallaroo import AutoRequest
from ..prompts_wallaroo import IMAGE_PLACEHOLDER
from ..shapes import LANGUAGES, SIZES, Scene, Turn, make_sample, render
from .report import SEEN, ScoredSample, summarize
from .scoring import ScoringJob, score_jobs

# What is asked for, and where the picture of it is from.
KINDS = ("ask_shown", "ask_made", "draw_first", "draw_again", "edit_shown", "edit_made")
# The task that is right for each.
RIGHT = {kind: {"ask": "understand", "draw": "generate", "edit": "edit"}[kind.partition("_")[0]] for kind in KINDS}
# The choice of head, beside the tasks.
CHOOSE = "choose"
# The choice falls at the first two tokens; an answer may end later.
MAX_NEW_TOKENS = 2


def evaluate_choices(
    model: Any,
    processor: Any,
    *,
    samples: int,
    seed: int,
    batch_size: int = 64,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Scores the choice of head at every turn of talks that training has not seen.

    What was said before a turn is what it should have been, so that each choice is by itself.

    Args:
        samples: how many turns; English and Chinese, the sizes, and texts as the world and as people write them, come
            in turns.
        seed: of the talks; not one of a recipe.

    Returns:
        `score` (0..1, the mean of the kinds) with its `standard_error` and `samples`; the same for each of `kinds` and
        `languages`; `confused`, how often which task was taken for which.
    """
    job = choices_job(model, processor, samples=samples, seed=seed)
    return choices_report(score_jobs([job], batch_size=batch_size, show_progress=show_progress)[job.name])


def choices_job(model: Any, processor: Any, *, samples: int, seed: int) -> ScoringJob:
    """What `evaluate_choices` scores."""
    turns = functools.cache(lambda: list(itertools.islice(_turns(seed), samples)))

    def score(start: int, stop: int) -> list[ScoredSample]:
        batch = turns()[start:stop]
        chosen = choose(model, processor, [request for request, *_ in batch])
        return [_scored(turn, kind, sample, task) for (_, turn, kind, sample), task in zip(batch, chosen, strict=True)]

    return ScoringJob(CHOOSE, "choice of head", samples, score)


def _scored(turn: Turn, kind: str, sample: dict[str, Any], chosen: str) -> ScoredSample:
    picture = sample["images"][0]
    return ScoredSample(
        task=CHOOSE,
        kind=kind,
        language=sample["language"],
        bucket=f"{picture.height}x{picture.width}",
        part=SEEN,
        correct=int(chosen == turn.task),
        scene=sample["seed"],
        answered=chosen,
    )


def choices_report(scored: Sequence[ScoredSample]) -> dict[str, Any]:
    """What `evaluate_choices` gives."""
    confused = Counter(f"{RIGHT[sample.kind]} -> {sample.answered}" for sample in scored if not sample.correct)
    groups = {
        "kinds": {kind: [s for s in scored if s.kind == kind] for kind in KINDS},
        "languages": {name: [s for s in scored if s.language == name] for name in LANGUAGES},
    }
    return {
        **summarize(scored),
        **{name: {key: summarize(own) for key, own in group.items() if own} for name, group in groups.items()},
        "confused": dict(confused.most_common()),
    }


@torch.no_grad()
def choose(model: Any, processor: Any, requests: Sequence[AutoRequest]) -> list[str]:
    """The task that a model chooses for each request."""
    inputs = processor.prepare_answers(requests).to(model.execution_device)
    has_picture = [bool(request.pictures) for request in requests]
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS}
    can_draw = [PictureMarks.of(model).may_draw(has) for has in has_picture]
    written = write_texts(model, inputs, can_draw, has_picture, **options)
    return [task or "understand" for _, task in written]


def _turns(seed: int) -> Iterator[tuple[AutoRequest, Turn, str, dict[str, Any]]]:
    """Each turn of one talk after another: what came before it, itself, its kind, and the sample it is of."""
    index = 0
    while True:
        number, spoken = divmod(index, len(LANGUAGES))
        sample = make_sample(
            "understand",
            number,
            seed,
            kind="dialogue",
            language=tuple(LANGUAGES)[spoken],
            bucket=SIZES[number % len(SIZES)],
            typed=number % 2 == 1,
        )
        yield from _turns_of(sample)
        index += 1


def _turns_of(sample: dict[str, Any]) -> Iterator[tuple[AutoRequest, Turn, str, dict[str, Any]]]:
    messages: list[dict[str, Any]] = []
    before: str | None = None
    for turn, said in zip(sample["meta"]["turns"], sample["messages"][::2], strict=True):
        shown = [] if turn.shown is None else [{"type": "image", "image": render(turn.shown)}]
        text = {"type": "text", "text": said["content"].removeprefix(IMAGE_PLACEHOLDER)}
        messages = [*messages, {"role": "user", "content": [*shown, text]}]
        before = "shown" if shown else before
        kind = {
            "understand": f"ask_{before}",
            "edit": f"edit_{before}",
            "generate": "draw_again" if before else "draw_first",
        }[turn.task]
        yield AutoRequest.of(messages, {}), turn, kind, sample
        answer: dict[str, Any] = {"type": "text", "text": turn.answer}
        if isinstance(turn.answer, Scene):
            answer = {"type": "image", "image": render(turn.answer), "task": turn.task}
            before = "made"
        messages = [*messages, {"role": "assistant", "content": [answer]}]


__all__ = ["CHOOSE", "choices_job", "choices_report", "choose", "evaluate_choices"]
