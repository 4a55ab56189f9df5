# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Evaluation on the shapes world: fresh samples of the three tasks, what a model makes of them, and the scores."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from ..embedded import versions
from ..shapes import KINDS, LANGUAGES, SIZES, TASKS, make_sample, score, scorer_report
from ..shapes.generation import HELD_OUT_KINDS
from ..training.preview import make_images
from .choices import evaluate_choices
from .report import HELD_OUT, PARTS, SEEN, SEEN_PLACED, ScoredSample, ShapesReport

# Far from the seeds of the recipes (1 and on for training, 1001 and on for its held-out losses), so that no sample here
# is a sample there.
DEFAULT_SEED = 20260
DEFAULT_SAMPLES = 360  # a multiple of kinds times languages times sizes
# The choice of head, beside the tasks.
CHOOSE = "choose"
# The longest answer describes four things in about 30 tokens.
MAX_NEW_TOKENS = 48

Sample = Mapping[str, Any]
# What a model makes of samples of one task, in their order: answers or pictures. Picture `i` is drawn with the given
# seed plus `i`.
Respond = Callable[[Sequence[Sample], int], Sequence[Any]]


def evaluate_shapes(
    model: Any,
    processor: Any,
    *,
    tasks: Sequence[str] | None = None,
    samples: int = DEFAULT_SAMPLES,
    held_out: int | None = None,
    seed: int = DEFAULT_SEED,
    batch_size: int = 64,
    show_progress: bool | None = None,
    **generate_options: Any,
) -> ShapesReport:
    """Scores a model on samples that training has not seen.

    The same arguments give the same report. Each picture has a seed of its own, so that the batch size does not matter.
    A checkpoint without row ends (stages 1 to 3a) draws at its own sizes, which are squares, and does not edit.

    Args:
        tasks: of `"understand"`, `"generate"`, `"edit"` and `"choose"`, which of the others is right for a request
            (see `evaluate_choices`); by default all that the checkpoint is for.
        samples: how many of each task, two for each kind at least; kinds and sizes take turns, and each scene is asked
            about in both languages. The scorer is tried on as many scenes.
        held_out: how many of combinations that are never in training; half of `samples` by default.
        seed: of samples and pictures. Recipes train on small seeds; do not take one of theirs.
        show_progress: a progress bar; by default where stderr is a terminal.
        generate_options: for `model.generate` of images, such as `guidance_scale`; by default as it samples itself.
    """
    started = time.perf_counter()
    known = tasks_of(processor)
    if tasks is None:
        tasks = (*known, CHOOSE) if model.config.decides_edits else known
    chooses, tasks = CHOOSE in tasks, [task for task in tasks if task != CHOOSE]
    if "edit" in tasks and "edit" not in known:
        raise ValueError(
            "`tasks` has 'edit', but the checkpoint makes squares only (`row_ends=False`, stages 1 to 3a): it is not "
            f"trained to edit. Take {', '.join(map(repr, known))}."
        )
    was_training = model.training
    model.eval()
    common: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "show_progress": show_progress}
    scored: list[ScoredSample] = []
    if tasks or not chooses:
        scored = evaluate_responses(
            respond_with(model, processor, **generate_options),
            tasks=tasks,
            samples=samples,
            held_out=held_out,
            sizes=picture_sizes(processor),
            **common,
        )
    choices = evaluate_choices(model, processor, samples=samples, **common) if chooses else {}
    scorer = {"rendered": _scorer(samples, None)}
    if set(tasks) - {"understand"}:
        scorer["tokenized"] = _scorer(samples, through_tokenizer(model, processor))
    model.train(was_training)
    settings = {
        "checkpoint": model.name_or_path,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "tasks": [*tasks, *([CHOOSE] if chooses else [])],
        "samples": samples,
        "held_out": samples // 2 if held_out is None else held_out,
        "seed": seed,
        "batch_size": batch_size,
        "sizes": [list(size) for size in picture_sizes(processor)],
        "generation": {**model.image_defaults, **generate_options},
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return ShapesReport(scored, scorer, settings, choices)


def _scorer(scenes: int, transform: Callable[[Image.Image], Image.Image] | None) -> dict[str, Any]:
    report = scorer_report(scenes, transform)
    return {name: value for name, value in report.items() if name != "failed"}


def evaluate_responses(
    respond: Respond,
    *,
    tasks: Sequence[str] = TASKS,
    samples: int = DEFAULT_SAMPLES,
    held_out: int | None = None,
    seed: int = DEFAULT_SEED,
    batch_size: int = 64,
    show_progress: bool | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[ScoredSample]:
    """Scores whatever `respond` makes of the samples, pictures of these `sizes`; see `evaluate_shapes`."""
    check_samples(samples, tasks)
    held_out = samples // 2 if held_out is None else held_out
    for name, value, least in (("held_out", held_out, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, but got {value}.")
    counts = {SEEN: samples, HELD_OUT: held_out, SEEN_PLACED: held_out}
    jobs = [(t, part, counts[part]) for t in tasks for part in PARTS if part != SEEN_PLACED or t == "generate"]
    scored: list[ScoredSample] = []
    # `disable=None` is tqdm's own "only on a terminal".
    disable = None if show_progress is None else not show_progress
    with logging.tqdm(total=sum(count for *_, count in jobs), unit="sample", disable=disable) as bar:
        for task, part, count in jobs:
            bar.set_description(task)
            chosen = evaluation_samples(task, count, seed, part=part, sizes=SIZES if task == "understand" else sizes)
            first_seed = seed + PARTS.index(part) * 1_000_000
            for start in range(0, count, batch_size):
                batch = chosen[start : start + batch_size]
                outputs = respond(batch, first_seed + start)
                scored += [_scored(sample, out, part) for sample, out in zip(batch, outputs, strict=True)]
                bar.update(len(batch))
    return scored


def check_samples(samples: int, tasks: Sequence[str]) -> None:
    """Raises a `ValueError` for unknown tasks, and for too few samples to score each kind in both languages."""
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"`tasks` must be some of {', '.join(map(repr, TASKS))}, but got {list(tasks)!r}.")
    task = max(tasks, key=lambda task: len(KINDS[task]))
    least = len(LANGUAGES) * len(KINDS[task])
    if samples < least:
        raise ValueError(
            f"`samples` must be at least {least}, one for each of the {len(KINDS[task])} kinds of {task!r} in each "
            f"language, but got {samples}: a score would leave kinds out."
        )


def tasks_of(processor: Any) -> tuple[str, ...]:
    """Tasks that a checkpoint is for: editing comes after row ends.

    A checkpoint of stage 3b has row ends and all parts, so that nothing in it says that its editing is not trained yet.
    """
    return TASKS if processor.row_ends else tuple(task for task in TASKS if task != "edit")


def picture_sizes(processor: Any) -> tuple[tuple[int, int], ...]:
    """(height, width) in pixels of the pictures that a checkpoint is asked to make: those of the shapes world, or, of
    one that makes squares only, its own."""
    if processor.row_ends:
        return SIZES
    return tuple((int(height), int(width)) for _, height, width in processor.image_processor.buckets)


def evaluation_samples(
    task: str, count: int, seed: int, *, part: str = SEEN, sizes: Sequence[tuple[int, int]] = SIZES
) -> list[dict[str, Any]]:
    """Samples of a part (see `report.py`), about equally many of each kind and size; each scene twice, in English and
    in Chinese. Those of one size stand together, since a batch of one size is made faster."""
    kinds = KINDS[task] if task != "generate" or part == SEEN else HELD_OUT_KINDS
    languages, samples = tuple(LANGUAGES), []
    for number in range(count):
        index, spoken = divmod(number, len(languages))
        # Counting on by one a round comes to every pair of kind and size.
        turn = index // len(kinds) + index % len(kinds)
        options: dict[str, Any] = {
            "kind": kinds[index % len(kinds)],
            "language": languages[spoken],
            "bucket": sizes[turn % len(sizes)],
        }
        if part == SEEN_PLACED:
            samples.append(_placed_sample(index, seed, options))
        else:
            samples.append(make_sample(task, index, seed, held_out=part == HELD_OUT, **options))
    return sorted(samples, key=size_of)


def _placed_sample(index: int, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of `generate` whose prompt names places, which a third or more do."""
    tries = (make_sample("generate", 1_000_000 + 1000 * index + attempt, seed, **options) for attempt in range(1000))
    return next(sample for sample in tries if sample["meta"]["ask"].looks[0].place is not None)


def size_of(sample: Sample) -> tuple[int, int]:
    """(height, width) in pixels."""
    picture = sample["images"][0] if sample["task"] == "understand" else sample["image"]
    return picture.height, picture.width


def question_of(sample: Sample) -> str:
    """What is asked: the prompt, or the question about a picture."""
    return sample["messages"][0]["content"] if sample["task"] == "understand" else sample["prompt"]


def _scored(sample: Sample, output: Any, part: str) -> ScoredSample:
    result = score(output, sample)
    height, width = size_of(sample)
    return ScoredSample(
        task=sample["task"],
        kind=sample["kind"],
        language=sample["language"],
        bucket=f"{height}x{width}",
        part=part,
        correct=result["correct"],
        scene=sample["seed"],
        size_exact=result.get("size_exact"),
        preserved=result.get("preserved"),
        reasons=tuple(result.get("reasons", ())),
        asked=question_of(sample),
        answered=result.get("answer"),
    )


def respond_with(model: Any, processor: Any, **generate_options: Any) -> Respond:
    """The model's answers, greedy, and its pictures; `generate_options` are for the pictures."""

    def respond(samples: Sequence[Sample], seed: int) -> Sequence[Any]:
        if samples[0]["task"] == "understand":
            return answers(model, processor, samples)
        options = {"batch_size": len(samples), "show_progress": False, **generate_options}
        return make_images(model, processor, samples, seed=seed, **options)

    return respond


def answers(model: Any, processor: Any, samples: Sequence[Sample]) -> list[str]:
    """The model's greedy answer to each question, as one batch."""
    inputs = processor(
        text=[question_of(sample) for sample in samples],
        images=[sample["images"] for sample in samples],
        task="understand",
        return_tensors="pt",
    ).to(model.device)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def through_tokenizer(model: Any, processor: Any) -> Callable[[Image.Image], Image.Image]:
    """Encodes and decodes a picture with the checkpoint's VQ tokenizer: the best that a picture of it can be."""

    def transform(image: Image.Image) -> Image.Image:
        pixels, _ = processor.image_processor.preprocess_cells([image], [(image.height, image.width)])
        return processor.image_processor.postprocess(model.model.vq_model(torch.from_numpy(pixels)))[0]

    return transform


__all__ = ["check_samples", "evaluate_responses", "evaluate_shapes", "evaluation_samples", "respond_with"]
