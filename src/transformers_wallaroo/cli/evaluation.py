# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging

from .common import (
    Checkpoint,
    Device,
    Output,
    Resume,
    is_first,
    make_room,
    new_group,
    say_which_checkpoint,
)

app = new_group()


@app.callback()
def evaluate() -> None:
    """Score a checkpoint, or make what a benchmark's own scorer reads.

    \b
    wallaroo eval shapes --json scores.json
    wallaroo eval geneval --prompts evaluation_metadata.jsonl --output runs/geneval --checkpoint wallaroo-7b --paper
    wallaroo eval check geneval runs/geneval
    """


@app.command("shapes")
def evaluate_shapes(
    checkpoint: Checkpoint = None,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Samples of each task, two a kind at least; held-out: half as many.")
    ] = 360,
    seed: Annotated[
        int, typer.Option(metavar="S", help="Of samples and pictures. Do not take one that training used.")
    ] = 20260,
    output: Output = None,
    resume: Resume = False,
    json: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the report to this file as well.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Only understand, generate, edit or choose (which of them). May be given again.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Samples at once. It changes the time, not the scores.")
    ] = 64,
    guidance_scale: Annotated[
        float | None, typer.Option(metavar="X", help="Of pictures; by default what the checkpoint says, else 3.")
    ] = None,
    device: Device = None,
) -> None:
    """Score answers, pictures and edits on the shapes world, where every answer is known exactly.

    \b
    wallaroo eval shapes
    wallaroo eval shapes --checkpoint runs/tiny/stage-4-auto/final --json scores.json
    wallaroo eval shapes --task generate --samples 60       a quick look while training
    wallaroo eval shapes --checkpoint runs/tiny/stage-4-auto/final --output runs/shapes --resume

    Prints a row a kind with English and Chinese, seen and held-out combinations, and a row a size; of a checkpoint that
    chooses by itself (task "auto"), how often it answers, draws and edits when it should.

    DIR gets run.json, report.json, and the scores of each sample; after a kill --resume scores what is not there yet.

    Edits are scored of every checkpoint with row ends. One of stage 3b has them too, but has not learned to edit yet:
    score it by --task understand --task generate.
    """
    from ..embedded import load_checkpoint
    from ..evaluation import evaluate_shapes as run_evaluation
    from ..evaluation.processes import Processes
    from ..evaluation.run_notes import check_resume
    from ..evaluation.shapes import tasks_of

    check_resume(output, resume=resume)
    if json is not None:
        make_room(json)
    say_which_checkpoint(checkpoint)
    logging.disable_progress_bar()
    try:
        model, processor = load_checkpoint(checkpoint, device=Processes().device(device))
    finally:
        logging.enable_progress_bar()
    options: dict[str, Any] = {"tasks": task} if task else {}
    if guidance_scale is not None:
        options["guidance_scale"] = guidance_scale
    report = run_evaluation(
        model,
        processor,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        output=output,
        resume=resume,
        **options,
    )
    if not is_first():
        return
    typer.echo(str(report))
    if checkpoint is not None and not task and "edit" in tasks_of(processor):
        typer.echo(
            "Edits were scored because the checkpoint has row ends. If it is of stage 3b, it has not learned to edit "
            "yet: --task understand --task generate leaves edits out.",
            err=True,
        )
    if json is not None:
        report.save(json)
        typer.echo(f"The report is in {json}.", err=True)
