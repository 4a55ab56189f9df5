# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a report page shows: runs with some of their pictures, and reports of `wallaroo eval shapes`, `vq` and `fid`."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .benchmarks import BENCHMARKS
from .checking import check_folder, samples_of_run
from .measuring import REPORT
from .run_files import FAILURES, PICTURES, RUN, picture_size, read_run
from .samples import Benchmark, BenchmarkSample
from .tables import TITLES, number

THUMBNAIL = 256  # pixels, the longer side of a picture on the page
QUALITY = 85
# Runs whose outcome is numbers instead of pictures, and the titles of their sections.
MEASURED = {"shapes": "Shapes world", "vq": "VQ tokenizer", "fid": "Distance of pictures"}
# What `run.json` must have for a page; the rest is shown where it is there.
NEEDED = {"benchmark": str, "settings": dict, "files": int, "complete": bool, "sessions": list}


@dataclass(frozen=True)
class Shown:
    """A prompt with its pictures, each as the content of an `src`."""

    prompt: str
    where: str
    source: str | None
    pictures: list[str]


@dataclass
class Part:
    """A section of the page.

    Attributes:
        title: of the section.
        folder: where it comes from.
        complete: `None` for what cannot be incomplete.
        facts: names and values, of settings and the like.
        columns, rows: a table of scores, where there is one.
        remarks: what a reader must know before comparing.
        problems: what is missing, or wrong.
        shown: some of the pictures.
    """

    title: str
    folder: str
    complete: bool | None = None
    facts: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)


def read_part(path: str | Path, *, pictures: int) -> Part:
    """The section of a run's folder, or of a JSON file of `wallaroo eval shapes`, `vq` or `fid`.

    Args:
        pictures: number of prompts whose pictures are shown, taken evenly over the run.
    """
    path = Path(path)
    if path.is_dir():
        return _of_run(path, pictures)
    if not path.is_file():
        raise ValueError(f"`paths` must be folders of runs or JSON files of `wallaroo eval`, but there is no {path}.")
    return _of_report(path)


def _of_report(path: Path) -> Part:
    """The section of a report in JSON."""
    report = _json(path)
    if isinstance(report, dict):
        for names, make in ((("overall", "kinds"), _of_shapes), (("psnr", "ssim"), _of_vq), (("fid",), _of_fid)):
            if all(name in report for name in names):
                try:
                    return make(report, str(path))
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    raise ValueError(f"{path} is not as `wallaroo eval` writes it: {error!r}.") from error
    raise ValueError(
        f"`paths` must be folders of runs, or JSON files of `wallaroo eval shapes`, `vq` or `fid`, but {path} is none. "
        "Scores of the official scorers go into `--scores`."
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it is not as `wallaroo eval` wrote it.") from error


# ------------------------------------------------------------------ runs


def _of_run(folder: Path, pictures: int) -> Part:
    run = read_run(folder)
    if run is None:
        raise ValueError(f"`paths` must be folders of runs, but {folder} has no {RUN}. A run's is its --output.")
    _check(run, folder)
    if run["benchmark"] in MEASURED:
        return _of_measured(folder, run)
    benchmark = BENCHMARKS[run["benchmark"]]
    part = Part(benchmark.title, str(folder), complete=run["complete"], facts=_facts(run))
    part.remarks.extend(_remarks(run, benchmark))
    samples: list[BenchmarkSample] = []
    try:
        samples = samples_of_run(benchmark, folder)[: run.get("limit")]
    except (ValueError, OSError, ImportError) as error:
        part.remarks.append(f"The prompts could not be read, so that pictures stand without them: {error}")
    if samples:
        report = check_folder(benchmark, folder, samples)
        part.complete = run["complete"] and report.complete
        if not report.complete:
            part.problems.extend(str(report).splitlines()[1:-1])
    part.problems.extend(_unfinished(run))
    part.problems.extend(_failures(folder))
    part.shown.extend(_shown(folder / PICTURES, samples, pictures))
    return part


def _of_measured(folder: Path, run: dict[str, Any]) -> Part:
    """The section of a run of `wallaroo eval shapes`, `vq` or `fid`."""
    path = folder / REPORT
    part = _of_report(path) if path.is_file() else Part(MEASURED[run["benchmark"]], str(folder))
    part.complete, part.facts = run["complete"], {**_facts(run), **part.facts}
    part.problems.extend(_failures(folder))
    if not path.is_file():
        part.problems.extend(_unfinished(run))
    return part


def _unfinished(run: dict[str, Any]) -> Iterator[str]:
    if not run["complete"]:
        yield "The run did not come to its end. The same command with --resume goes on with it."


def _check(run: Any, folder: Path) -> None:
    """Raises where `run.json` has not what a page needs."""
    for name, kind in NEEDED.items():
        if not isinstance(run, dict) or not isinstance(run.get(name), kind):
            raise ValueError(f"{folder / RUN} has no {name!r} ({kind.__name__}): it is not as a run wrote it.")
    known = run["benchmark"] in BENCHMARKS or run["benchmark"] in MEASURED
    if not known or not all(isinstance(session, dict) for session in run["sessions"]):
        raise ValueError(f"{folder / RUN} is not as a run wrote it: its benchmark is {run['benchmark']!r}.")


def _facts(run: dict[str, Any]) -> dict[str, str]:
    """What was run, in words."""
    settings = {name: value for name, value in run["settings"].items() if name not in ("paper", "departures")}
    sessions, last = run["sessions"], (run["sessions"] or [{}])[-1]
    seconds = sum(session.get("seconds") or 0 for session in sessions)
    facts = {
        "checkpoint": run.get("checkpoint"),
        "SHA-256": str(run.get("checkpoint_sha256", ""))[:16],
        "parameters": f"{run['parameters']:,}" if isinstance(run.get("parameters"), int) else None,
        "dtype": run.get("dtype"),
        "settings": _pairs(settings),
        "generation": _pairs(run["generation"]) if isinstance(run.get("generation"), dict) else None,
        "samples in all" if run["benchmark"] == "shapes" else "files of pictures": f"{run['files']:,}",
        "device": f"{last.get('device')}, processes: {last.get('processes')}, batches of {last.get('batch_size')}",
        "time": f"{seconds:,.0f} s in {len(sessions)} session{'s' * (len(sessions) != 1)}",
        "versions": _pairs(last.get("versions") or {}),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _remarks(run: dict[str, Any], benchmark: Benchmark) -> Iterator[str]:
    settings = run["settings"]
    if not settings.get("paper"):
        yield "These are not the paper's settings: the run was without --paper."
    elif settings.get("departures"):
        yield f"These settings are not the paper's: {', '.join(map(str, settings['departures']))}."
    used = min(run.get("samples") or 0, run.get("limit") or run.get("samples") or 0)
    if benchmark.published not in (None, used):
        yield f"{benchmark.title} has {benchmark.published} prompts, these are {used}: do not compare the scores."


def _failures(folder: Path) -> Iterator[str]:
    path = folder / FAILURES
    if not path.is_file():
        return
    failures = _json(path)
    if not isinstance(failures, list) or not all(isinstance(failure, dict) for failure in failures):
        raise ValueError(f"{path} must be a list of failures: it is not as a run wrote it.")
    for failure in failures:
        yield f"{failure.get('path')} failed ({failure.get('where')}): {failure.get('error')}"


def _shown(folder: Path, samples: Sequence[BenchmarkSample], count: int) -> Iterator[Shown]:
    """So many prompts, evenly over the run; without prompts so many files."""
    if not samples:
        for path in _evenly(sorted(folder.rglob("*.png")), count):
            if (picture := _file_url(path)) is not None:
                yield Shown("", path.relative_to(folder).as_posix(), None, [picture])
        return
    for sample in _evenly(samples, count):
        pictures = [url for name in sample.pictures if (url := _file_url(folder / name)) is not None]
        source = None
        if sample.source is not None:
            try:
                source = picture_url(sample.source())
            except (ValueError, OSError):  # it has failed in the run as well, and is among the failures
                source = None
        yield Shown(sample.prompt, sample.pictures[0], source, pictures)


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _file_url(path: Path) -> str | None:
    """`None` for a picture that is missing or broken, which the check has told."""
    try:
        picture_size(path)
    except (ValueError, OSError):
        return None
    with Image.open(path) as picture:
        return picture_url(picture)


def picture_url(picture: Image.Image) -> str:
    """A picture, made small, as the content of an `src`: nothing else needs to be fetched."""
    small = picture.convert("RGB")
    kind, options = "png", {}
    if max(small.size) > THUMBNAIL:
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        kind, options = "jpeg", {"quality": QUALITY}
    file = io.BytesIO()
    small.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


# ------------------------------------------------------------------ reports in JSON


def _of_shapes(report: dict[str, Any], path: str) -> Part:
    rows = []
    for task, score in report["overall"].items():
        held_out = report["held_out"].get(task) or {}
        rows.append(
            [
                TITLES[task],
                number(score, report["standard_error"][task]),
                number(held_out.get("score"), held_out.get("standard_error")),
                str(sum(kind["samples"] for kind in report["kinds"][task].values())),
            ]
        )
    if choices := report.get("choices"):
        score = number(choices["score"], choices["standard_error"])
        rows.append(["Choice of head", score, number(None), str(choices["samples"])])
    facts = {
        name: _pairs(value) if isinstance(value, dict) else str(value) for name, value in report["settings"].items()
    }
    columns = ["task", "seen", "held out", "samples"]
    return Part(MEASURED["shapes"], path, facts=facts, columns=columns, rows=rows)


def _of_vq(report: dict[str, Any], path: str) -> Part:
    named = {"psnr": "PSNR, dB", "ssim": "SSIM", "rfid": "rFID", "rsfid": "rsFID", "inception_score": "Inception Score"}
    rows = [[title, f"{report[name]:.3f}"] for name, title in named.items() if isinstance(report.get(name), float)]
    facts = {
        "checkpoint": str(report["checkpoint"]),
        "pictures": f"{report['pictures']} from {report['from']}",
        "sizes": _pairs(report["sizes"]),
        "codes used": f"{report['codes_used']} of {report['codebook']}",
    }
    return Part(MEASURED["vq"], path, facts=facts, columns=["", "reconstruction"], rows=rows)


def _of_fid(report: dict[str, Any], path: str) -> Part:
    facts = {name: str(report[name]) for name in ("generated", "reference", "pictures")}
    rows = [[name, f"{value:.3f}"] for name, value in report.items() if isinstance(value, float)]
    return Part(MEASURED["fid"], path, facts=facts, columns=["", "value"], rows=rows)


__all__ = ["Part", "Shown", "picture_url", "read_part"]
