# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo data`."""

from pathlib import Path
from typing import Annotated

import typer

from .common import new_group

app = new_group()

Mixture = Annotated[
    Path, typer.Argument(metavar="MIXTURE", help="YAML file with sources under `data`: a mixture, or a whole recipe.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Whose tokenizer and sizes; by default the recipe's `init`, else wallaroo-tiny."),
]
Seed = Annotated[int, typer.Option(metavar="S", help="Of which samples are read.")]
FAILED = 1


@app.callback()
def data() -> None:
    """Look at data sets before training on them.

    \b
    wallaroo data check mixture.yaml
    wallaroo data stats mixture.yaml --output report
    """


@app.command()
def check(
    mixture: Mixture,
    samples: Annotated[int, typer.Option(metavar="N", help="Samples of each source; all where it has no more.")] = 100,
    checkpoint: Checkpoint = None,
    sheet: Annotated[Path, typer.Option(metavar="PNG", help="Where the contact sheet goes.")] = Path(
        "contact_sheet.png"
    ),
    seed: Seed = 0,
) -> None:
    """Read some samples of each source and show what they are like: counts, sizes, lengths, what is left out and why.

    \b
    wallaroo data check mixture.yaml
    wallaroo data check mine.yaml --samples 1000 --sheet seen.png

    Prints a row a source, then what is left out and why, and writes a contact sheet. A recipe's sizes and limits hold;
    a mixture alone is read without limits. Ends with the exit code 1 where a source cannot be read, gives no sample,
    or has more broken ones than its `max_dropped`.
    """
    from ..training.data.check import draw_sheet

    if sheet.is_dir():
        raise ValueError(f"`--sheet` must be a file, but {sheet} is a folder.")
    checks = _read(mixture, samples, checkpoint, seed)
    draw_sheet(checks, sheet)
    typer.echo(f"The contact sheet is in {sheet}.", err=True)
    _end(checks)


@app.command()
def stats(
    mixture: Mixture,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for report.html and stats.json.")] = Path(
        "data-report"
    ),
    samples: Annotated[int, typer.Option(metavar="N", help="Samples of each source; all where it has no more.")] = 1000,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
) -> None:
    """Write a page with plots of sizes, shapes and lengths of each source, and the figures as JSON.

    \b
    wallaroo data stats mixture.yaml --output report --samples 5000
    """
    from ..training.data.report import save_report

    if output.is_file():
        raise ValueError(f"`--output` must be a folder, but {output} is a file.")
    checks = _read(mixture, samples, checkpoint, seed)
    path = save_report(checks, output, f"Data of {mixture}")
    typer.echo(f"The report is in {path}.", err=True)
    _end(checks)


def _read(mixture: Path, samples: int, checkpoint: str | None, seed: int):
    """Checks the sources and prints what was found."""
    from ..evaluation.tables import table
    from ..training.data.check import check_mixture, open_mixture
    from ..training.data.report import HEADER, lines_of, remarks_of

    if samples < 1:
        raise ValueError(f"`--samples` must be 1 or more, but got {samples}.")
    sources, collator, whole = open_mixture(mixture, checkpoint)
    if checkpoint is None and not whole:
        typer.echo("No --checkpoint was given: sizes and tokens are those of wallaroo-tiny.", err=True)
    checks = check_mixture(sources, collator, samples=samples, seed=seed)
    typer.echo(table(HEADER, lines_of(checks)))
    typer.echo("\nWidth, height, ratio (width over height) and tokens: least - middle - most of what was read.")
    for one in checks:
        typer.echo(f"\n{one.task} / {one.name}")
        for remark in remarks_of(one) or ["nothing left out"]:
            typer.echo(f"  {remark}")
    return checks


def _end(checks) -> None:
    if any(one.failed for one in checks):
        raise typer.Exit(FAILED)
