# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval report`."""

from pathlib import Path
from typing import Annotated

import typer

from .common import new_group, tell

app = new_group()


@app.command("report")
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR ...]", help="Folders of runs, and JSON files of eval shapes, vq and fid."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE|FILE", help="What a scorer gave, or JSON of such, or of lmms-eval; again and again."
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(metavar="N", help="Prompts of each run whose pictures are shown, evenly over the run.")
    ] = 12,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Of the page.")] = "Wallaroo: evaluation",
) -> None:
    """Write one page of HTML: runs with pictures and settings, and scores beside the paper's tables 3 to 6.

    \b
    wallaroo eval report runs/geneval runs/dpg --scores geneval/overall=0.74 --output report.html
    wallaroo eval report runs/imgedit shapes.json vq.json --scores scores.json

    wallaroo eval report --scores logs/wallaroo-7b/20261123_003144_results.json

    scores.json is {"geneval": {"overall": 0.74, ...}, "dpg": {...}}. A wrong name is told with those that there are.
    The last one is what lmms-eval writes: POPE, MME and the others of its tasks go beside table 3.
    """
    from ..evaluation.report_page import save_report_page

    parts = save_report_page(paths or [], output, scores=scores or [], pictures=pictures, title=title)
    for part in parts:
        if part.complete is False:
            tell(f"{part.folder} is not complete: {len(part.problems)} problems are on the page.")
    typer.echo(str(output))
