# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval vq` and `fid`."""

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer

from .common import INCOMPLETE, Checkpoint, make_room, new_group, tell

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
    pictures: Annotated[str, typer.Option(metavar="DIR", help="Folder of pictures, or shapes.")] = "shapes",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="By default the trained size nearest to each picture's shape."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N pictures.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 16,
    fid_weights: Weights = None,
    device: Device = None,
    json: Json = None,
) -> None:
    """Say how much of pictures survives the VQ tokenizer: PSNR and SSIM, and rFID with --fid-weights.

    \b
    wallaroo eval vq
    wallaroo eval vq --checkpoint wallaroo-7b --pictures imagenet/val --size 256 256 --fid-weights inception.pth

    The checkpoint may also be a VQ tokenizer by itself.
    """
    _check_alone()
    from ..evaluation.distances import missing_libraries
    from ..evaluation.reconstruction import evaluate_vq

    if json is not None:
        make_room(json)
    report = evaluate_vq(
        checkpoint, pictures, size=size, limit=limit, batch_size=batch_size, device=device, weights=fid_weights
    )
    if fid_weights is None:
        typer.echo(f"Without rFID: --fid-weights was not given. {missing_libraries() or ''}", err=True)
    _show(report, json)


@app.command("fid")
def fid(
    generated: Annotated[Path, typer.Argument(metavar="GENERATED", help="Folder of pictures.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Folder of pictures to compare with.")],
    fid_weights: Weights = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 32,
    device: Device = None,
    json: Json = None,
) -> None:
    """Say how far the pictures of a folder are from those of another: FID, sFID, and the Inception Score of the first.

    \b
    wallaroo eval fid runs/imagenet/images imagenet/val --fid-weights inception.pth
    """
    _check_alone()
    from ..evaluation.reconstruction import compare_folders

    if json is not None:
        make_room(json)
    report = compare_folders(generated, reference, weights=fid_weights, batch_size=batch_size, device=device)
    _show(report, json)


def _check_alone() -> None:
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise ValueError(
            f"`wallaroo eval vq` and `fid` compute in one process, but WORLD_SIZE says that {count} were started, and "
            "each would do all of the work. Call the command without `accelerate launch` or `torchrun`."
        )


def _show(report: dict, json: Path | None) -> None:
    """Prints the numbers; the status is 1 where they lack a file that cannot be read."""
    from ..evaluation.run_files import write_whole

    text = json_module.dumps(report, indent=1)
    typer.echo(text)
    if json is not None:
        write_whole(json, text + "\n", partial=json.parent)
    if report["unreadable"]:
        names = ", ".join(entry["path"] for entry in report["unreadable"][:SHOWN])
        more = ", ..." if len(report["unreadable"]) > SHOWN else ""
        tell(f"{len(report['unreadable'])} of the files cannot be read and are not in the numbers: {names}{more}")
        raise typer.Exit(INCOMPLETE)
