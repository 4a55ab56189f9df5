# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The `wallaroo` command, a module a group of commands. It reads arguments, calls the package and prints; what it does
is done elsewhere.

What a user did wrong (`ValueError`, `OSError`, a missing extra) ends in one sentence on stderr and the exit code 2;
`WALLAROO_TRACEBACK=1` shows where it came from.
"""

from typing import Annotated

import typer

from .. import __version__
from . import (
    benchmarks,
    checkpoints,
    data,
    evaluation,
    hub,
    pictures,
    reconstruction,
    reports,
    serve,
    text,
    training,
    web,
)
from .common import Commands, new_group

app = new_group(cls=Commands, pretty_exceptions_enable=False)


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
    wallaroo generate "a red circle" --size 64x48           draw
    wallaroo edit "make the circle blue" -i circle.png      change a picture
    wallaroo ask "describe the picture" -i circle.png       ask about pictures
    wallaroo chat                                           all of it, turn by turn
    wallaroo info                                           what a checkpoint or a picture is
    wallaroo convert --help                                 released weights into a checkpoint
    wallaroo app                                            the web page, in a browser
    wallaroo eval shapes                                    score the embedded checkpoint
    wallaroo eval geneval --prompts PATH --output DIR       draw a benchmark as its scorer reads it
    wallaroo eval report DIR --scores NAME=VALUE            a page beside the paper's numbers
    wallaroo serve                                          serve it to OpenAI's clients
    wallaroo train examples/recipes/tiny/stage-2.yaml       train a stage
    wallaroo train-vq examples/recipes/tiny/vq.yaml         train an image tokenizer
    wallaroo encode examples/recipes/tiny/stage-4.yaml      make the codes of its images once
    wallaroo data check mixture.yaml                        look at data sets before training on them
    wallaroo push runs/mine/final me/mine --dry-run         send a checkpoint to the Hub, with its card

    A command with --help says what it takes. WALLAROO_CHECKPOINT names the checkpoint of commands that are given no
    --checkpoint; without either they take the embedded wallaroo-tiny. WALLAROO_TRACEBACK=1 shows where an error comes
    from.
    """


for group in (text, pictures, checkpoints, training, hub, serve, web):
    app.add_typer(group.app)
for group in (benchmarks, reconstruction, reports):
    evaluation.app.add_typer(group.app)
app.add_typer(evaluation.app, name="eval")
app.add_typer(data.app, name="data")


def main() -> None:
    app(prog_name="wallaroo")
