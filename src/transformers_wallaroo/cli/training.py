# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo train`, `train-vq` and `encode`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .common import INTERRUPTED, new_group, say_once

app = new_group()

Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="YAML file of the recipe, such as examples/recipes/tiny/stage-2.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="What to change in the recipe; the value is read as YAML."),
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint of the output.")]


@app.command()
def train(recipe: Recipe, overrides: Overrides = None, resume: Resume = True) -> None:
    """Train one stage from its recipe; the checkpoint lands in the folder `final` of the recipe's `output`.

    \b
    wallaroo train examples/recipes/tiny/stage-2.yaml
    wallaroo train examples/recipes/tiny/stage-2.yaml steps=100 output=/tmp/short trainer.report_to=tensorboard
    accelerate launch -m transformers_wallaroo.cli train RECIPE     on several GPUs

    The same command goes on with a run that was stopped, and does nothing where the run is done.
    """
    from ..training.run import run_stage
    from ..training.stages import StageConfig

    config = StageConfig.load(recipe, overrides or ())
    with _Interruptible(config.output):
        final = run_stage(config, resume=resume)
    say_once(f"The checkpoint of stage {config.stage} is in {final}.")


@app.command("train-vq")
def train_vq(recipe: Recipe, overrides: Overrides = None, resume: Resume = True) -> None:
    """Train a VQ image tokenizer from its recipe; it lands in the recipe's `output_dir`.

    \b
    wallaroo train-vq examples/recipes/tiny/vq.yaml
    wallaroo train-vq examples/recipes/tiny/vq.yaml steps=100 output_dir=/tmp/vq data=my/pictures size=[256,256]

    The same command goes on with a run that was stopped.
    """
    from ..training.recipes import read_recipe
    from ..training.vq import train_vq as run_training
    from ..training.vq_data import VQTrainingConfig

    config = VQTrainingConfig.from_dict(read_recipe(recipe, overrides or ()))
    with _Interruptible(config.output_dir):
        run_training(config, resume=resume)
    say_once(f"The tokenizer is in {config.output_dir}.")


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

    from ..training.encoding import encode_recipe
    from ..training.stages import StageConfig

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
            say_once(f"Stopped. The same command goes on from the last checkpoint in {self.output}, if there is one.")
            raise typer.Exit(INTERRUPTED) from error
