# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: options, loading, how they end where a user did something wrong, and what they tell."""

import json
import logging
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..wording import sentence

if TYPE_CHECKING:
    from ..apps import Engine

INCOMPLETE, USER_ERROR, INTERRUPTED = 1, 2, 130
# What an option that cannot be read raises; it is typer's own or click's, depending on typer's version.
UsageError: Any = typer.BadParameter.__base__
CHECKPOINT_VARIABLE = "WALLAROO_CHECKPOINT"


class Dtype(str, Enum):
    """Names of dtypes, for shell completion and errors."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        envvar=CHECKPOINT_VARIABLE,
        help="Folder or Hub name; the embedded wallaroo-tiny by default.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Such as cpu or cuda:0; a GPU where there is one.")
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the run, which a stopped run goes on from and processes share."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, if there is one.")]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Of the weights; by default float32 on a CPU, else the checkpoint's own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class Commands(TyperGroup):
    """A group whose commands end in a sentence where a user did something wrong."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except UsageError as error:
            message, where = error.format_message(), error.ctx or ctx
            if message == where.get_help():  # a group that was given no command
                raise
            tell(f"wallaroo: {message.rstrip('.')}. `{where.command_path} --help` says what there is.")
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            tell("Stopped.")
            raise typer.Exit(INTERRUPTED) from error
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("WALLAROO_TRACEBACK") == "1":
                raise
            tell(f"wallaroo: {sentence(error)}")
            raise typer.Exit(USER_ERROR) from error


def new_group(**options) -> typer.Typer:
    """An empty group of commands.

    Its help is plain: what one reads is what a pipe, a log and a narrow terminal show as well.
    """
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)


def tell(text: str) -> None:
    """Says something to the user, beside the output."""
    typer.echo(text, err=True)


def say_once(text: str) -> None:
    """Prints in the first of the processes that work together."""
    if is_first():
        tell(text)


def is_first() -> bool:
    """Whether this is the first of the processes that work together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def end_incomplete() -> None:
    """Ends with the status of what is not complete, in the first process alone: where another one ends so, a launcher
    ends the first before it has told what is missing."""
    if is_first():
        raise typer.Exit(INCOMPLETE)


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def make_room(path: Path) -> None:
    """Makes the folder of a file that is written at the end, so that a bad path is told at the start."""
    if path.is_dir():
        raise ValueError(f"`--json` must be a file, but {path} is a folder.")
    path.parent.mkdir(parents=True, exist_ok=True)


def say_which_checkpoint(checkpoint: str | None) -> None:
    """The embedded checkpoint is a toy: who gets it without asking should know."""
    if checkpoint is None:
        from ..embedded import tiny_path

        say_once(
            f"No --checkpoint was given, so this is the embedded one, wallaroo-tiny, which knows a world of coloured "
            f"shapes: {tiny_path()}"
        )


def load_engine(checkpoint: str | None, device: str | None, dtype: Dtype | None) -> "Engine":
    """The checkpoint that a command was told to take."""
    import torch

    from ..apps import Engine

    say_which_checkpoint(checkpoint)
    # It names sizes height first, where the command has width first and says it by itself.
    logging.getLogger("transformers_wallaroo.image_processing_wallaroo").setLevel(logging.ERROR)
    return Engine.load(checkpoint, device=device, dtype=None if dtype is None else getattr(torch, dtype.value))
