# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval geneval`, `dpg`, `imgedit`, `gedit` and `check`."""

import functools
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import INCOMPLETE, Checkpoint, end_incomplete, new_group, say_once

app = new_group()

# Options that not every benchmark has.
OF_DRAWING, OF_SOURCES, OF_METHODS = ("size",), ("sources",), ("method",)


def run_benchmark(
    name: str,
    *,
    prompts: Annotated[str, typer.Option(metavar="PATH", help="The benchmark's prompts as published, or a Hub name.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run; the scorer's is DIR/images.")],
    checkpoint: Checkpoint = None,
    sources: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the pictures to edit; by default that of the prompts.")
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="What the scorer is to call the model.")] = "wallaroo",
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's settings; an option given beside it departs from them.")
    ] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N prompts.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, if there is one.")] = False,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 8,
    seed: Annotated[int, typer.Option(metavar="S", help="A picture's seed is made of it and the prompt's name.")] = 0,
    on_error: Annotated[
        str, typer.Option(metavar="raise|list", help="At a sample that fails: stop, or list it and end with status 1.")
    ] = "raise",
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda:0; a GPU where there is one.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(metavar="X", help="By default what the checkpoint says, else 3.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(metavar="X", help="By default 1.")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="N", help="By default 1000.")] = None,
    top_p: Annotated[float | None, typer.Option(metavar="X", help="By default 1.")] = None,
    layout: Annotated[str | None, typer.Option(metavar="NAME", help="Of prompts: training or evaluation.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Side in pixels; by default the checkpoint's own square.")
    ] = None,
) -> None:
    from ..embedded import tiny_path
    from ..evaluation.benchmarks import get_benchmark
    from ..evaluation.runner import run_benchmark as run
    from ..evaluation.settings import settings_for

    benchmark = get_benchmark(name)
    if checkpoint is None:
        say_once(f"No --checkpoint was given, so this is the embedded one, wallaroo-tiny: {tiny_path()}")
    sampling = {"guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = settings_for(benchmark, paper=paper, layout=layout, size=size, **sampling)
    reading = _reading(name, sources, method)
    samples = benchmark.read(prompts, **reading)
    if settings["departures"]:
        say_once(f"These settings are not the paper's: {', '.join(settings['departures'])}.")
    if benchmark.published not in (None, len(samples)):
        say_once(f"{benchmark.title} has {benchmark.published} prompts, these are {len(samples)}.")
    report = run(
        benchmark,
        samples,
        checkpoint,
        output,
        settings=settings,
        seed=seed,
        limit=limit,
        resume=resume,
        batch_size=batch_size,
        on_error=on_error,
        device=device,
        prompts=prompts,
        reading=reading,
    )
    say_once(f"{report.files} files, {report.made} of them made now, for the scorer: {report.pictures}")
    if report.failures:
        say_once(f"{len(report.failures)} could not be made and are missing; {output / 'failures.json'} lists them.")
        end_incomplete()


def _reading(name: str, sources: Path | None, method: str | None) -> dict[str, Any]:
    """What the benchmark's `read` takes besides the prompts, as JSON can hold it."""
    options: dict[str, dict[str, Any]] = {
        "imgedit": {"sources": None if sources is None else str(sources)},
        "gedit": {"method": method},
    }
    return options.get(name, {})


def _add_command(name: str, without: tuple[str, ...], text: str) -> None:
    """Adds a command with the options of `run_benchmark`, without some."""
    signature = inspect.signature(run_benchmark)
    kept = [entry for entry in signature.parameters.values() if entry.name not in ("name", *without)]

    @functools.wraps(run_benchmark)
    def command(**options: Any) -> None:
        run_benchmark(name, **options)

    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in kept}
    app.command(name, help=inspect.cleandoc(text))(command)


_add_command(
    "geneval",
    (*OF_SOURCES, *OF_METHODS),
    """Draw the prompts of GenEval, four pictures each, as its scorer reads them.

    \b
    wallaroo eval geneval --checkpoint wallaroo-7b --prompts evaluation_metadata.jsonl --output runs/geneval --paper
    wallaroo eval check geneval runs/geneval

    PATH is evaluation_metadata.jsonl. Each line becomes a folder with that line and its pictures.
    """,
)
_add_command(
    "dpg",
    (*OF_SOURCES, *OF_METHODS),
    """Draw the prompts of DPG-Bench, a grid of 2 x 2 pictures each, as its scorer reads them.

    \b
    wallaroo eval dpg --checkpoint wallaroo-7b --prompts ELLA/dpg_bench/prompts --output runs/dpg --paper
    wallaroo eval check dpg runs/dpg

    PATH is the folder of texts, or dpg_bench.csv.
    """,
)
_add_command(
    "imgedit",
    (*OF_DRAWING, *OF_METHODS),
    """Make the edits of ImgEdit-Bench (its basic part) as its scorer reads them.

    \b
    wallaroo eval imgedit --checkpoint wallaroo-7b --prompts singleturn/singleturn.json --output runs/imgedit --paper
    wallaroo eval check imgedit runs/imgedit

    PATH is singleturn.json (or basic_edit.json), with the pictures beside it or in the folder of --sources.
    """,
)
_add_command(
    "gedit",
    (*OF_DRAWING, *OF_SOURCES),
    """Make the edits of GEdit-Bench, in English and Chinese, as its scorer reads them.

    \b
    wallaroo eval gedit --checkpoint wallaroo-7b --prompts stepfun-ai/GEdit-Bench --output runs/gedit --paper
    wallaroo eval check gedit runs/gedit

    PATH is the name on the Hub, its Parquet files, or a folder that `datasets` saved.
    """,
)


@app.command("check")
def check(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="geneval, dpg, imgedit or gedit.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of pictures made elsewhere.")],
    prompts: Annotated[
        str | None, typer.Option(metavar="PATH", help="As in the run; by default what its run.json says.")
    ] = None,
    sources: Annotated[Path | None, typer.Option(metavar="DIR", help="As in the run, of imgedit.")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="As in the run, of gedit; by default what its run.json says.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N prompts should be there.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Side of drawn pictures in pixels; by default that of the first.")
    ] = None,
) -> None:
    """Say whether a folder is complete for its scorer: nothing missing, unreadable, of a wrong size, or too much.

    \b
    wallaroo eval check geneval runs/geneval
    wallaroo eval check dpg pictures --prompts dpg_bench.csv --size 512

    The status is 0 where it is complete and 1 where it is not. Scorers say nothing of what they do not find.
    """
    from ..evaluation.benchmarks import get_benchmark
    from ..evaluation.checking import check_folder, samples_of_run

    chosen = get_benchmark(benchmark)
    reading = _reading(benchmark, sources, method)
    samples = samples_of_run(chosen, folder, prompts=prompts, **reading)
    report = check_folder(chosen, folder, samples[:limit], size=size)
    typer.echo(str(report))
    if chosen.published not in (None, len(samples[:limit])):
        typer.echo(f"{chosen.title} has {chosen.published} prompts, these are {len(samples[:limit])}.", err=True)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
