# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The `wallaroo` command. It reads arguments, calls the package and prints; what it does is done elsewhere.

What a user did wrong (`ValueError`, `OSError`, a missing extra) ends in one sentence on stderr and the exit code 2;
`WALLAROO_TRACEBACK=1` shows where it came from.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging
from typer.core import TyperGroup

from . import __version__

USER_ERROR, INTERRUPTED = 2, 130


class Commands(TyperGroup):
    """A group whose commands end in a sentence where a user did something wrong."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("WALLAROO_TRACEBACK") == "1":
                raise
            typer.echo(f"wallaroo: {_sentence(error)}", err=True)
            raise typer.Exit(USER_ERROR) from error


def _sentence(error: Exception) -> str:
    """What an error says, on one line. That of a worker of a data loader says it at the end of its own traceback."""
    text, kind = str(error), type(error).__name__
    if "Original Traceback" in text:
        text = re.split(rf"^(?:\w+\.)*{kind}: ", text, flags=re.MULTILINE)[-1]
    return " ".join(text.split())


# Plain help: what one reads is what a pipe, a log and a narrow terminal show as well.
app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
eval_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(eval_app, name="eval")

Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="YAML file of the recipe, such as examples/recipes/tiny/stage-2.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="What to change in the recipe; the value is read as YAML."),
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint of the output.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"transformers-wallaroo {__version__}")
        raise typer.Exit()


@app.callback()
def wallaroo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One autoregressive model that understands, draws and edits images.

    \b
    wallaroo eval shapes                                    score the embedded checkpoint
    wallaroo train examples/recipes/tiny/stage-2.yaml       train a stage
    wallaroo train-vq examples/recipes/tiny/vq.yaml         train an image tokenizer
    wallaroo encode examples/recipes/tiny/stage-4.yaml      make the codes of its images once

    A command with --help says what it takes. WALLAROO_TRACEBACK=1 shows where an error comes from.
    """


@eval_app.callback()
def evaluate() -> None:
    """Score a checkpoint.

    \b
    wallaroo eval shapes --json scores.json
    """


@eval_app.command("shapes")
def evaluate_shapes(
    checkpoint: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder or Hub name; the embedded wallaroo-tiny by default.")
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Samples of each task, two a kind at least; held-out: half as many.")
    ] = 360,
    seed: Annotated[
        int, typer.Option(metavar="S", help="Of samples and pictures. Do not take one that training used.")
    ] = 20260,
    json: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the report to this file as well.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Only this task: understand, generate or edit. May be given again."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Samples at once. It changes the time, not the scores.")
    ] = 64,
    guidance_scale: Annotated[
        float | None, typer.Option(metavar="X", help="Of pictures; by default what the checkpoint says, else 3.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda:0; a GPU where there is one.")
    ] = None,
) -> None:
    """Score answers, pictures and edits on the shapes world, where every answer is known exactly.

    \b
    wallaroo eval shapes
    wallaroo eval shapes --checkpoint runs/tiny/stage-4/final --json scores.json
    wallaroo eval shapes --task generate --samples 60       a quick look while training

    Prints a row a kind with English and Chinese, seen and held-out combinations, and a row a size.

    Edits are scored of every checkpoint with row ends. One of stage 3b has them too, but has not learned to edit yet:
    score it by --task understand --task generate.
    """
    from .embedded import load_checkpoint, tiny_path
    from .evaluation import evaluate_shapes as run_evaluation
    from .evaluation.shapes import tasks_of

    if json is not None:
        _make_room(json)
    if checkpoint is None:
        typer.echo(f"No --checkpoint was given, so this is the embedded one, wallaroo-tiny: {tiny_path()}", err=True)
    logging.disable_progress_bar()
    try:
        model, processor = load_checkpoint(checkpoint, device=device)
    finally:
        logging.enable_progress_bar()
    options: dict[str, Any] = {"tasks": task} if task else {}
    if guidance_scale is not None:
        options["guidance_scale"] = guidance_scale
    report = run_evaluation(model, processor, samples=samples, seed=seed, batch_size=batch_size, **options)
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


@app.command()
def train(recipe: Recipe, overrides: Overrides = None, resume: Resume = True) -> None:
    """Train one stage from its recipe; the checkpoint lands in the folder `final` of the recipe's `output`.

    \b
    wallaroo train examples/recipes/tiny/stage-2.yaml
    wallaroo train examples/recipes/tiny/stage-2.yaml steps=100 output=/tmp/short trainer.report_to=tensorboard
    accelerate launch -m transformers_wallaroo.cli train RECIPE     on several GPUs

    The same command goes on with a run that was stopped, and does nothing where the run is done.
    """
    from .training.run import run_stage
    from .training.stages import StageConfig

    config = StageConfig.load(recipe, overrides or ())
    with _Interruptible(config.output):
        final = run_stage(config, resume=resume)
    _say_once(f"The checkpoint of stage {config.stage} is in {final}.")


@app.command("train-vq")
def train_vq(recipe: Recipe, overrides: Overrides = None, resume: Resume = True) -> None:
    """Train a VQ image tokenizer from its recipe; it lands in the recipe's `output_dir`.

    \b
    wallaroo train-vq examples/recipes/tiny/vq.yaml
    wallaroo train-vq examples/recipes/tiny/vq.yaml steps=100 output_dir=/tmp/vq data=my/pictures size=[256,256]

    The same command goes on with a run that was stopped.
    """
    from .training.recipes import read_recipe
    from .training.vq import train_vq as run_training
    from .training.vq_data import VQTrainingConfig

    config = VQTrainingConfig.from_dict(read_recipe(recipe, overrides or ()))
    with _Interruptible(config.output_dir):
        run_training(config, resume=resume)
    _say_once(f"The tokenizer is in {config.output_dir}.")


@app.command()
def encode(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the codes.")] = Path("codes"),
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Most samples of a task; by default as many as the run takes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures that are encoded at once.")] = 32,
) -> None:
    """Turn the images of a recipe's data into codes once, so that training does not encode them again.

    \b
    wallaroo encode examples/recipes/tiny/stage-4.yaml --output codes --samples 20000

    Prints the lines for the recipe. The same command goes on where it was stopped.
    """
    import yaml

    from .training.encoding import encode_recipe
    from .training.stages import StageConfig

    config = StageConfig.load(recipe, overrides or ())
    data = encode_recipe(config, output, samples=samples, batch_size=batch_size)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(yaml.safe_dump({"data": data}, sort_keys=False), nl=False)


class _Interruptible:
    """Says how to go on where Ctrl-C stops a training."""

    def __init__(self, output: str):
        self.output = output

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if kind is KeyboardInterrupt:
            _say_once(f"Stopped. The same command goes on from the last checkpoint in {self.output}, if there is one.")
            raise typer.Exit(INTERRUPTED) from error


def _say_once(text: str) -> None:
    """Prints in the first of the processes that train together."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)


def _make_room(path: Path) -> None:
    """Makes the folder of a file that is written at the end, so that a bad path is told at the start."""
    if path.is_dir():
        raise ValueError(f"`--json` must be a file, but {path} is a folder.")
    path.parent.mkdir(parents=True, exist_ok=True)


def main() -> None:
    app(prog_name="wallaroo")


if __name__ == "__main__":
    main()
