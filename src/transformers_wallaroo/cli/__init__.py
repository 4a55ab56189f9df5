# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The `wallaroo` command, a module a group of commands. It reads arguments, calls the package and prints; what it does
is done elsewhere.

What a user did wrong (`ValueError`, `OSError`, a missing extra) ends in one sentence on stderr and the exit code 2;
`WALLAROO_TRACEBACK=1` shows where it came from.
"""

from typing import Annotated

import typer

from .. import __version__
from . import evaluation, training, web
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
    wallaroo app                                            the web page, in a browser
    wallaroo eval shapes                                    score the embedded checkpoint
    wallaroo train examples/recipes/tiny/stage-2.yaml       train a stage
    wallaroo train-vq examples/recipes/tiny/vq.yaml         train an image tokenizer
    wallaroo encode examples/recipes/tiny/stage-4.yaml      make the codes of its images once

    A command with --help says what it takes. WALLAROO_TRACEBACK=1 shows where an error comes from.
    """


app.add_typer(training.app)
app.add_typer(evaluation.app, name="eval")
app.add_typer(web.app)


def main() -> None:
    app(prog_name="wallaroo")
