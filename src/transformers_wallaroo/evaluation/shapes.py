# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Evaluation on the shapes world: fresh samples of the three tasks, what a model makes of them, and the scores."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..embedded import checkpoint_hash, versions
from ..shapes import KINDS, LANGUAGES, SIZES, TASKS, make_sample, score, scorer_report
from ..shapes.generation import HELD_OUT_KINDS
from ..training.preview import make_images
from .choices import CHOOSE, choices_job, choices_report
from .choices import KINDS as CHOICES
from .measuring import REPORT
from .processes import Processes
from .report import HELD_OUT, PARTS, SEEN, SEEN_PLACED, ScoredSample, ShapesReport
from .run_files import write_json
from .run_notes import as_json, check_resume, check_same, earlier_run, note_begin, note_end
from .scoring import SCORED, ScoredStore, ScoringJob, score_jobs

SHAPES = "shapes"  # what `run.json` calls it
# Far from the seeds of the recipes (1 and on for training, 1001 and on for its held-out losses), so that no sample here
# is a sample there.
DEFAULT_SEED = 20260
DEFAULT_SAMPLES = 360  # a multiple of kinds times languages times sizes
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
    output: str | Path | None = None,
    resume: bool = False,
    show_progress: bool | None = None,
    **generate_options: Any,
) -> ShapesReport:
    """Scores a model on samples that training has not seen.

    The same arguments give the same report. Each picture has a seed of its own, so that the batch size does not matter.
    A checkpoint without row ends (stages 1 to 3a) draws at its own sizes, which are squares, and does not edit.

    Processes that `accelerate launch` starts share the batches, and all have the report; each calls this.

    Args:
        tasks: of `"understand"`, `"generate"`, `"edit"` and `"choose"`, which of the others is right for a request
            (see `evaluate_choices`); by default all that the checkpoint is for. They may be others when a run goes on.
        samples: how many of each task, two for each kind at least; kinds and sizes take turns, and each scene is asked
            about in both languages. The scorer is tried on as many scenes.
        held_out: how many of combinations that are never in training; half of `samples` by default.
        seed: of samples and pictures. Recipes train on small seeds; do not take one of theirs.
        output: folder of the run: `run.json`, `report.json`, and `scored/` for going on. Without it nothing is kept.
            The model must be the one that was loaded from `model.name_or_path`, by whose hash the run is known.
        resume: go on with the run in `output`, if there is one.
        show_progress: a progress bar; by default where stderr is a terminal.
        generate_options: for `model.generate` of images, such as `guidance_scale`; by default as it samples itself.
    """
    started = time.perf_counter()
    check_resume(output, resume=resume)
    chosen = _tasks(model, processor, tasks)
    settings = {
        "checkpoint": model.name_or_path,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "tasks": chosen,
        "samples": samples,
        "held_out": samples // 2 if held_out is None else held_out,
        "seed": seed,
        "batch_size": batch_size,
        "sizes": [list(size) for size in picture_sizes(processor)],
        "generation": {**model.image_defaults, **generate_options},
        "versions": versions(),
    }
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}.")
    jobs = _jobs(model, processor, settings, generate_options)
    with _evaluating(model), Processes() as processes:
        folder = None if output is None else Path(output)
        if folder is not None:
            processes.first_does(lambda: _begin(folder, model, settings, jobs, processes.count, resume=resume))
        store = None if folder is None else ScoredStore(folder)
        scored = score_jobs(jobs, batch_size=batch_size, show_progress=show_progress, processes=processes, store=store)

        def report() -> ShapesReport:
            seconds = time.perf_counter() - started
            made = _report(scored, model, processor, {**settings, "seconds": round(seconds, 1)})
            if folder is not None:
                write_json(folder / REPORT, made.to_dict())
                note_end(folder, [], seconds=seconds)
            return made

        return processes.first_does(report)


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _tasks(model: Any, processor: Any, tasks: Sequence[str] | None) -> list[str]:
    """What is scored, the choice of head last."""
    known = tasks_of(processor)
    if tasks is None:
        return [*known, *([CHOOSE] if model.config.decides_edits else [])]
    if "edit" in tasks and "edit" not in known:
        raise ValueError(
            "`tasks` has 'edit', but the checkpoint makes squares only (`row_ends=False`, stages 1 to 3a): it is not "
            f"trained to edit. Take {', '.join(map(repr, known))}."
        )
    return [*(task for task in dict.fromkeys(tasks) if task != CHOOSE), *([CHOOSE] if CHOOSE in tasks else [])]


def _jobs(
    model: Any, processor: Any, settings: Mapping[str, Any], generate_options: Mapping[str, Any]
) -> list[ScoringJob]:
    tasks = [task for task in settings["tasks"] if task != CHOOSE]
    jobs: list[ScoringJob] = []
    if tasks or CHOOSE not in settings["tasks"]:
        jobs += response_jobs(
            respond_with(model, processor, **generate_options),
            tasks=tasks,
            sizes=picture_sizes(processor),
            **{name: settings[name] for name in ("samples", "held_out", "seed")},
        )
    if CHOOSE in settings["tasks"]:
        least = len(LANGUAGES) * len(CHOICES)
        if settings["samples"] < least:
            raise ValueError(
                f"`samples` must be at least {least} for 'choose', one for each kind of request in each "
                f"language, but got "
                f"{settings['samples']}."
            )
        jobs.append(choices_job(model, processor, samples=settings["samples"], seed=settings["seed"]))
    return jobs


def _begin(
    output: Path, model: Any, settings: Mapping[str, Any], jobs: Sequence[ScoringJob], processes: int, *, resume: bool
) -> None:
    """Notes in `run.json` what is run; raises where the folder has another run, or one that was not to go on."""
    if not model.name_or_path:
        raise ValueError(
            "`output` needs a model that was loaded from a checkpoint, by whose hash a run is known, but this one has "
            "no `name_or_path`. Save and load it, or leave `output` out."
        )
    before = earlier_run(output, SCORED, resume=resume, what="scored samples")
    identity = as_json(
        {
            "benchmark": SHAPES,
            "checkpoint_sha256": checkpoint_hash(model.name_or_path),
            "dtype": settings["dtype"],
            "settings": {name: settings[name] for name in ("samples", "held_out", "seed", "sizes", "generation")},
        }
    )
    if before is not None:
        check_same(output, before, identity)
    ScoredStore(output).remove_damaged()
    noted = {name: settings[name] for name in ("checkpoint", "parameters", "tasks")}
    note_begin(
        output,
        before,
        batch_size=settings["batch_size"],
        processes=processes,
        device=model.device,
        **identity,
        **noted,
        files=sum(job.count for job in jobs),
    )
    # Of a run that was complete and has more tasks now, the report is of fewer.
    (output / REPORT).unlink(missing_ok=True)


def _report(
    scored: Mapping[str, Sequence[ScoredSample]], model: Any, processor: Any, settings: dict[str, Any]
) -> ShapesReport:
    """Puts the scores together, and tries the scorer."""
    count, tasks = settings["samples"], set(settings["tasks"])
    scorer = {"rendered": _scorer(count, None)}
    if tasks - {"understand", CHOOSE}:
        scorer["tokenized"] = _scorer(count, through_tokenizer(model, processor))
    responses = [sample for name, own in scored.items() if name != CHOOSE for sample in own]
    return ShapesReport(responses, scorer, settings, choices_report(scored[CHOOSE]) if CHOOSE in scored else {})


def _scorer(scenes: int, transform: Callable[[Image.Image], Image.Image] | None) -> dict[str, Any]:
    report = scorer_report(scenes, transform)
    return {name: value for name, value in report.items() if name != "failed"}


def evaluate_responses(
    respond: Respond, *, batch_size: int = 64, show_progress: bool | None = None, **options: Any
) -> list[ScoredSample]:
    """Scores whatever `respond` makes of the samples; `options` are those of `response_jobs`."""
    scored = score_jobs(response_jobs(respond, **options), batch_size=batch_size, show_progress=show_progress)
    return [sample for own in scored.values() for sample in own]


def response_jobs(
    respond: Respond,
    *,
    tasks: Sequence[str] = TASKS,
    samples: int = DEFAULT_SAMPLES,
    held_out: int | None = None,
    seed: int = DEFAULT_SEED,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[ScoringJob]:
    """What `evaluate_shapes` scores of the tasks, with pictures of these `sizes`."""
    check_samples(samples, tasks)
    held_out = samples // 2 if held_out is None else held_out
    if held_out < 0:
        raise ValueError(f"`held_out` must be at least 0, but got {held_out}.")
    counts = {SEEN: samples, HELD_OUT: held_out, SEEN_PLACED: held_out}
    return [
        _response_job(respond, task, part, counts[part], seed, SIZES if task == "understand" else sizes)
        for task in tasks
        for part in PARTS
        if part != SEEN_PLACED or task == "generate"
    ]


def _response_job(
    respond: Respond, task: str, part: str, count: int, seed: int, sizes: Sequence[tuple[int, int]]
) -> ScoringJob:
    # Made when they are needed: of a run that goes on, some parts are done.
    chosen = functools.cache(lambda: evaluation_samples(task, count, seed, part=part, sizes=sizes))
    first_seed = seed + PARTS.index(part) * 1_000_000

    def score_batch(start: int, stop: int) -> list[ScoredSample]:
        batch = chosen()[start:stop]
        outputs = respond(batch, first_seed + start)
        return [_scored(sample, out, part) for sample, out in zip(batch, outputs, strict=True)]

    return ScoringJob(f"{task}-{part}", task, count, score_batch)


def check_samples(samples: int, tasks: Sequence[str]) -> None:
    """Raises a `ValueError` for unknown tasks, and for too few samples to score each kind in both languages."""
    if not tasks or not set(tasks) <= set(TASKS):
        known = ", ".join(map(repr, (*TASKS, CHOOSE)))
        raise ValueError(f"`tasks` must be some of {known}, but got {list(tasks)!r}.")
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
