# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval vq` and `fid`."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from .common import Checkpoint, Output, Resume, end_incomplete, is_first, make_room, new_group, say_once

app = new_group()
SHOWN = 5  # names of files that cannot be read

Weights = Annotated[
    Path | None, typer.Option(metavar="PATH", help="File of the Inception network, for FID, sFID and Inception Score.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda:0; a GPU where there is one.")]
Json = Annotated[Path | None, typer.Option(metavar="OUT", help="Write the numbers to this file as well.")]


@app.command("vq")
def vq(
    checkpoint: Checkpoint = None,
    output: Output = None,
    pictures: Annotated[str, typer.Option(metavar="DIR", help="Folder of pictures, or shapes.")] = "shapes",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="By default the trained size nearest to each picture's shape."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N pictures.")] = None,
    resume: Resume = False,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 16,
    fid_weights: Weights = None,
    device: Device = None,
    json: Json = None,
) -> None:
    """Say how much of pictures survives the VQ tokenizer: PSNR and SSIM, and rFID with --fid-weights.

    \b
    wallaroo eval vq
    wallaroo eval vq --checkpoint wallaroo-7b --pictures imagenet/val --size 256 256 --fid-weights inception.pth \\
        --output runs/vq --resume

    DIR gets run.json, report.json and pictures.jsonl, the numbers of each picture. The checkpoint may also be a VQ
    tokenizer by itself.
    """
    from ..evaluation.distances import missing_libraries
    from ..evaluation.reconstruction import evaluate_vq

    if json is not None:
        make_room(json)
    report = evaluate_vq(
        checkpoint,
        pictures,
        output,
        size=size,
        limit=limit,
        resume=resume,
        batch_size=batch_size,
        device=device,
        weights=fid_weights,
    )
    if fid_weights is None:
        say_once(f"Without rFID: --fid-weights was not given. {missing_libraries() or ''}")
    _show(report, json)


@app.command("fid")
def fid(
    generated: Annotated[Path, typer.Argument(metavar="GENERATED", help="Folder of pictures.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Folder of pictures to compare with.")],
    output: Output = None,
    fid_weights: Weights = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N pictures of each folder.")] = None,
    resume: Resume = False,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 32,
    device: Device = None,
    json: Json = None,
) -> None:
    """Say how far the pictures of a folder are from those of another: FID, sFID, and the Inception Score of the first.

    \b
    wallaroo eval fid runs/imagenet/images imagenet/val --fid-weights inception.pth --output runs/fid

    DIR gets run.json, report.json, and the features of the pictures, about 20 kB each.
    """
    from ..evaluation.reconstruction import compare_folders

    if json is not None:
        make_room(json)
    report = compare_folders(
        generated,
        reference,
        output,
        weights=fid_weights,
        limit=limit,
        resume=resume,
        batch_size=batch_size,
        device=device,
    )
    _show(report, json)


def _show(report: dict, json: Path | None) -> None:
    """Prints the numbers, in the first process; the status is 1 where they lack a file that cannot be read."""
    from ..evaluation.run_files import write_whole

    if is_first():
        text = json_module.dumps(report, indent=1)
        typer.echo(text)
        if json is not None:
            write_whole(json, text + "\n", partial=json.parent)
    if report["unreadable"]:
        names = ", ".join(entry["path"] for entry in report["unreadable"][:SHOWN])
        more = ", ..." if len(report["unreadable"]) > SHOWN else ""
        say_once(f"{len(report['unreadable'])} of the files cannot be read and are not in the numbers: {names}{more}")
        end_incomplete()
