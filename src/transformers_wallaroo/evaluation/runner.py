# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Makes the pictures of a benchmark: sharded, in batches, resumable, and never one missing in silence."""

import hashlib
import io
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.utils import logging

from ..embedded import checkpoint_hash, load_checkpoint, tiny_path
from ..training.preview import make_images
from .processes import Processes
from .run_files import PARTIAL, PICTURES, is_readable, picture_hash, write_whole
from .run_notes import as_json, check_same, earlier_run, is_on_cpu, note, note_begin, note_end
from .samples import Benchmark, BenchmarkSample, Job, jobs_of, paste_grid
from .settings import generate_options, template_of
from .shapes import tasks_of

logger = logging.get_logger(__name__)

ON_ERROR = ("raise", "list")
# What a sample may fail by: what is wrong with its prompt or its picture, its files, or computing it (as memory).
SAMPLE_ERRORS = (ValueError, OSError, RuntimeError)

Load = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        files: number of picture files that there should be.
        made: of them, made by this call, in all processes.
        kept: of them, there before.
        failures: a sample each: `path`, `where`, `prompt`, `error`, `traceback`.
        pictures: folder for the scorer.
    """

    files: int
    made: int
    kept: int
    failures: list[dict[str, str]]
    pictures: Path


def run_benchmark(
    benchmark: Benchmark,
    samples: Sequence[BenchmarkSample],
    checkpoint: str | Path | None,
    output: str | Path,
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    limit: int | None = None,
    resume: bool = False,
    batch_size: int = 8,
    on_error: str = "raise",
    device: str | None = None,
    prompts: str | Path = "",
    reading: Mapping[str, Any] | None = None,
    show_progress: bool | None = None,
    load: Load = load_checkpoint,
) -> RunReport:
    """Makes the files that the benchmark's scorer reads, in `output/images`.

    A picture's seed is made of `seed` and of the sample's name: it is the same whatever the batch, the number of
    processes and the limit, and however often the run was stopped. Files appear whole. A run that was stopped goes on
    with `resume=True`; files that are there are kept, damaged ones made anew. `output/run.json` says what was run.

    Processes that `accelerate launch` starts share the batches.

    Args:
        samples: of `benchmark.read`.
        checkpoint: folder or Hub name; the embedded one by default.
        output: folder.
        settings: of `settings_for`.
        limit: only the first so many samples. It may be another one when the run goes on.
        batch_size: pictures at once.
        on_error: `"raise"` stops at a sample that fails; `"list"` goes on and lists it in `output/failures.json`.
        device: such as `"cuda:0"`; by default this process's GPU, or the CPU.
        prompts, reading: where the samples come from, and the options with which they were read, for `run.json`.
        show_progress: a bar with the time that is left; by default where stderr is a terminal.
        load: gives model and processor of the checkpoint.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, but got {value}.")
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {ON_ERROR}, but got {on_error!r}.")
    if not samples:
        raise ValueError(f"`prompts` {str(prompts)!r} hold no samples of {benchmark.title}.")
    jobs = list(jobs_of(samples[:limit]))
    path = tiny_path() if checkpoint is None else checkpoint
    run = _Run(benchmark, Path(output), dict(settings), seed, batch_size, on_error)
    started = time.perf_counter()
    with Processes() as processes:
        target = processes.device(device)
        plan = {"prompts": str(prompts), "reading": dict(reading or {}), "limit": limit, "files": len(jobs)}
        processes.first_does(lambda: _begin(run, path, samples, limit, plan, processes.count, target, resume))
        batches = run.batches(jobs)[processes.rank :: processes.count]
        todo = [missing for batch in batches if (missing := [job for job in batch if not run.is_done(job)])]
        waiting = sum(map(len, todo))
        failures: list[dict[str, str]] = []
        if todo:
            model, processor = _load(load, path, target, run)
            if processes.rank == 0:
                note(run.output, parameters=model.num_parameters(), generation=run.generation_of(model))
            total = sum(map(len, batches))
            # `disable=None` is tqdm's own "only on a terminal".
            with logging.tqdm(
                total=total,
                initial=total - waiting,
                desc=benchmark.title,
                unit="file",
                position=processes.rank,
                disable=None if show_progress is None else not show_progress,
            ) as bar:
                for failure in run.make(todo, model, processor, bar):
                    failures.append(failure)
        counts = processes.gather((waiting - len(failures), sum(map(len, batches)) - waiting, failures))
        made, kept = (sum(count[place] for count in counts) for place in (0, 1))
        failed = sorted((failure for *_, found in counts for failure in found), key=lambda failure: failure["path"])
        # The others wait: a launcher ends all of them as soon as one ends with a status of its own.
        processes.first_does(lambda: note_end(run.output, failed, seconds=time.perf_counter() - started))
    return RunReport(len(jobs), made, kept, failed, run.pictures)


@dataclass
class _Run:
    """What does not change while a run goes on."""

    benchmark: Benchmark
    output: Path
    settings: dict[str, Any]
    seed: int
    batch_size: int
    on_error: str

    @property
    def pictures(self) -> Path:
        return self.output / PICTURES

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """All files in batches. They are made before it is known what is there already, and are the same in every
        process: a picture has the same neighbours whatever the number of processes."""
        at_once = max(self.batch_size // jobs[0].pictures, 1)
        return [list(jobs[start : start + at_once]) for start in range(0, len(jobs), at_once)]

    def is_done(self, job: Job) -> bool:
        """Whether a file and those beside it are there, and can be read."""
        path = self.pictures / job.path
        if not path.exists():
            return False
        if not is_readable(path):
            logger.warning(f"{path} is damaged; it is made anew.")
            return False
        copy = job.sample.source_copy
        return (copy is None or is_readable(self.pictures / copy)) and all(
            (self.pictures / name).is_file() for name in job.sample.texts
        )

    def make(self, todo: Sequence[Sequence[Job]], model: Any, processor: Any, bar: Any) -> Iterator[dict[str, str]]:
        """Makes the files; gives what failed."""
        for batch in todo:
            try:
                self._make_batch(batch, model, processor)
            except SAMPLE_ERRORS as error:
                if len(batch) == 1 or self.on_error == "raise":
                    yield self._failure(batch, error)
                else:
                    # One of them is to blame, and the others are not.
                    yield from self.make([[job] for job in batch], model, processor, bar)
                    continue
            bar.update(len(batch))

    def _make_batch(self, batch: Sequence[Job], model: Any, processor: Any) -> None:
        asked = [entry for job in batch for entry in [self._asked(job, processor)] * job.pictures]
        made = iter(
            make_images(
                model,
                processor,
                asked,
                seed=[seed for job in batch for seed in job.seeds(self.benchmark.name, self.seed)],
                batch_size=self.batch_size,
                layout=self.settings.get("layout"),
                template=template_of(self.settings, self.benchmark.task, processor),
                show_progress=False,
                **generate_options(self.settings),
            )
        )
        for job in batch:
            self._write(job, [next(made) for _ in range(job.pictures)])

    def _asked(self, job: Job, processor: Any) -> dict[str, Any]:
        """The sample as `make_images` takes it."""
        asked = {"task": self.benchmark.task, "prompt": job.sample.prompt}
        if job.sample.source is not None:
            return {**asked, "source_image": job.sample.source()}
        side = self.settings.get("size")
        height, width = processor.image_processor.bucket_of(1, 1) if side is None else (side, side)
        return {**asked, "height": height, "width": width}

    def _write(self, job: Job, made: Sequence[Image.Image]) -> None:
        """Writes a file of pictures, last of all: where it is there, all that belongs to it is."""
        sample = job.sample
        for name, text in sample.texts.items():
            self._write_file(name, text)
        shown = sample.source_shown or sample.source
        if sample.source_copy is not None and shown is not None:
            self._write_file(sample.source_copy, _png(shown()))
        self._write_file(job.path, _png(paste_grid(made) if sample.is_grid else made[0]))

    def _write_file(self, name: str, content: bytes | str) -> None:
        write_whole(self.pictures / name, content, partial=self.output / PARTIAL)

    def _failure(self, batch: Sequence[Job], error: Exception) -> dict[str, str]:
        """What failed; raises instead where a failure is to stop the run."""
        names = ", ".join(f"{job.path} ({job.sample.where})" for job in batch)
        if self.on_error == "raise":
            raise ValueError(
                f"{names} could not be made: {error} The files made before are kept; --resume goes on from them, and "
                "`--on-error list` goes past what fails and lists it."
            ) from error
        [job] = batch
        logger.warning(f"{names} could not be made: {error}")
        return {
            "path": job.path,
            "where": job.sample.where,
            "prompt": job.sample.prompt,
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
        }

    def generation_of(self, model: Any) -> dict[str, Any]:
        """With which options `model.generate` makes the pictures, those of the checkpoint included."""
        return {**model.image_defaults, **generate_options(self.settings)}


def _begin(run, checkpoint, samples, limit, plan, processes, device, resume) -> None:
    """Notes in `run.json` what is run; raises where the folder has another run, or one that was not to go on."""
    before = earlier_run(run.output, PICTURES, resume=resume)
    identity = {
        "benchmark": run.benchmark.name,
        "checkpoint_sha256": checkpoint_hash(checkpoint),
        # `load_checkpoint` computes in float32 on a CPU, and in the checkpoint's own dtype elsewhere.
        "dtype": "float32" if is_on_cpu(device) else "of the checkpoint",
        "settings": as_json({"seed": run.seed, **run.settings}),
        "prompts_sha256": _prompts_hash(samples),
    }
    if before is not None:
        check_same(run.output, before, identity)
    sources, sources_before = _sources(samples[:limit]), (before or {}).get("sources", {})
    changed = [key for key, value in sources.items() if sources_before.get(key, value) != value]
    if changed:
        raise ValueError(
            f"`output` {str(run.output)!r} was begun with other pictures to edit: {len(changed)} have changed, such as "
            f"that of {changed[0]!r}. Take another folder."
        )
    note_begin(
        run.output,
        before,
        batch_size=run.batch_size,
        processes=processes,
        device=device,
        **identity,
        checkpoint=str(checkpoint),
        **plan,
        samples=len(samples),
        published_samples=run.benchmark.published,
        sources={**sources_before, **sources},
    )


def _prompts_hash(samples: Sequence[BenchmarkSample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.key, sample.prompt, sample.files, list(sample.texts.values())]).encode())
    return digest.hexdigest()


def _sources(samples: Sequence[BenchmarkSample]) -> dict[str, str]:
    """Hashes of the pictures to edit, by the samples' keys. One that cannot be read is left out: it may be mended."""
    edits = [sample for sample in samples if sample.source is not None]
    hashes = {}
    for sample in logging.tqdm(edits, desc="pictures to edit", unit="picture", disable=None if edits else True):
        seen = [give for give in (sample.source, sample.source_shown) if give is not None]
        try:
            hashes[sample.key] = " ".join(picture_hash(give())[:16] for give in seen)
        except SAMPLE_ERRORS:
            continue  # making it tells of it
    return hashes


def _load(load: Load, checkpoint: str | Path, device: Any, run: _Run) -> tuple[Any, Any]:
    logging.disable_progress_bar()
    try:
        model, processor = load(checkpoint, device=device)
    finally:
        logging.enable_progress_bar()
    if run.benchmark.task not in tasks_of(processor):
        raise ValueError(
            f"{run.benchmark.title} edits pictures, but the checkpoint makes squares only (`row_ends=False`, stages 1 "
            "to 3a): it is not trained to edit."
        )
    return model, processor


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


__all__ = ["RunReport", "run_benchmark"]
