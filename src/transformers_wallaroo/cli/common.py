# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: how they end where a user did something wrong, and what they tell."""

import os
import re
from pathlib import Path

import typer
from typer.core import TyperGroup

INCOMPLETE, USER_ERROR, INTERRUPTED = 1, 2, 130


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


def new_group(**options) -> typer.Typer:
    """An empty group of commands.

    Its help is plain: what one reads is what a pipe, a log and a narrow terminal show as well.
    """
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)


def say_once(text: str) -> None:
    """Prints in the first of the processes that train together."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)


def make_room(path: Path) -> None:
    """Makes the folder of a file that is written at the end, so that a bad path is told at the start."""
    if path.is_dir():
        raise ValueError(f"`--json` must be a file, but {path} is a folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
