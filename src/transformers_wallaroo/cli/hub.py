# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo push`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import USER_ERROR, AsJson, new_group, print_json

app = new_group()


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a checkpoint, or of a LoRA adapter.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and card, and send nothing.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Add a commit to a repository that is there; go on with a stopped push.")
    ] = False,
    branch: Annotated[
        str | None,
        typer.Option("--branch", "--revision", metavar="NAME", help="Branch; made where it is missing. Else main."),
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the commit.")] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="checkpoint, lora, wallaroo-7b, wallaroo-tiny or a Markdown file. Else the folder's README.md.",
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Report of `wallaroo eval shapes --json`, for the card. May be given again."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="What it was trained from; an adapter needs it on the Hub.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="As the Hub names it, such as apache-2.0, where no card says it.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Push a checkpoint or a LoRA adapter to the Hub, with its card.

    \b
    wallaroo push runs/mine/final me/mine --license apache-2.0 --dry-run
    wallaroo push runs/mine/final me/mine --license apache-2.0 --scores scores.json --private
    wallaroo push runs/mine-lora/final me/mine-lora --license apache-2.0 --base-model me/mine

    The folder must be whole: config, weights, processor, code. Only safetensors are sent. The card is a commit of its
    own, after the files, and its snippets name the commit of the files: docs/hub.md says why.
    """
    from ..apps import hub

    plan = hub.plan_push(folder, repository, card=card, scores=scores or (), base_model=base_model, license=license)
    for note in plan.notes:
        typer.echo(f"Note: {note}", err=True)
    if dry_run:
        if json:
            print_json(plan.as_json())
        else:
            typer.echo(str(plan))
        for problem in plan.problems:
            typer.echo(f"wallaroo: {problem}", err=True)
        raise typer.Exit(USER_ERROR if plan.problems else 0)
    pushed = hub.push(plan, private=private, branch=branch, message=message, update=update)
    if json:
        print_json(asdict(pushed))
        return
    typer.echo(pushed.url)
    typer.echo(f"The card's snippets name revision {pushed.revision}.", err=True)
