# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reports as text: Markdown tables that are even in a terminal too."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {"understand": "Understanding", "generate": "Generation", "edit": "Editing"}
LANGUAGES = {"en": "English", "zh": "Chinese"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned at the left, the others at the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        lines.append(f"| {' | '.join(cells)} |")
    dashes = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines.insert(1, f"| {' | '.join(dashes)} |")
    return "\n".join(lines)


def number(value: float | None, error: float | None = None) -> str:
    """A score with two places, with its standard error where there is one."""
    if value is None:
        return "-"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def report_text(report: Mapping[str, Any]) -> str:
    """The tables of a report as `ShapesReport.to_dict` gives it."""
    parts = [_task_text(report, task) for task in report["overall"]]
    if report.get("choices"):
        parts.append(choices_text(report["choices"]))
    parts.append("Sizes (height x width)\n\n" + _sizes(report))
    parts.append(_notes(report))
    return "\n\n".join(parts)


def choices_text(choices: Mapping[str, Any]) -> str:
    """A row for each kind of request."""
    groups = {**choices["kinds"], **{LANGUAGES[name]: own for name, own in choices["languages"].items()}}
    rows = [
        (name.replace("_", ", "), number(own["score"], own["standard_error"]), str(own["samples"]))
        for name, own in groups.items()
    ]
    text = f"Choice of head: {number(choices['score'], choices['standard_error'])}\n\n"
    text += table(("request", "right", "samples"), rows)
    wrong = ", ".join(f"{name} {count}" for name, count in choices["confused"].items())
    return f"{text}\n\nWrong choices: {wrong}." if wrong else text


def _task_text(report: Mapping[str, Any], task: str) -> str:
    """A row a kind; the last row is the mean of the kinds."""
    kinds, languages = report["kinds"][task], report["languages"][task]
    held_out = report["held_out"].get(task)
    rows = [
        _row(kind, summary, summary, held_out and held_out["kinds"].get(kind, {})) for kind, summary in kinds.items()
    ]
    scores = {language: languages[language]["score"] for language in languages}
    total = {
        "score": report["overall"][task],
        "standard_error": report["standard_error"][task],
        "samples": sum(summary["samples"] for summary in kinds.values()),
    }
    rows.append(_row("all kinds", total, scores, held_out))
    header = ("kind", *LANGUAGES.values(), "both", "held out", "samples")
    text = f"{TITLES[task]}: {number(total['score'], total['standard_error'])}\n\n{table(header, rows)}"
    if held_out:
        seen = held_out["seen"]
        text += (
            f"\n\nHeld-out combinations: {number(held_out['score'], held_out['standard_error'])} "
            f"({held_out['samples']} samples). Seen ones, asked in the same way: "
            f"{number(seen['score'], seen['standard_error'])}. Ratio: {number(held_out['ratio'])}."
        )
    return text


def _row(
    name: str, summary: Mapping[str, Any], languages: Mapping[str, Any], held_out: Mapping[str, Any] | None
) -> list[str]:
    return [
        name,
        *(number(languages.get(language)) for language in LANGUAGES),
        number(summary["score"], summary["standard_error"]),
        number((held_out or {}).get("score")),
        str(summary["samples"]),
    ]


def _sizes(report: Mapping[str, Any]) -> str:
    tasks = list(report["overall"])
    sizes = list(dict.fromkeys(size for task in tasks for size in report["buckets"][task]))
    rows = []
    for size in sizes:
        summaries = [report["buckets"][task].get(size, {}) for task in tasks]
        rows.append([size, *(number(summary.get("score"), summary.get("standard_error")) for summary in summaries)])
    return table(("size", *(TITLES[task].lower() for task in tasks)), rows)


def _notes(report: Mapping[str, Any]) -> str:
    """What is no score of a task: sizes, preservation, the scorer, the settings."""
    lines = []
    if report["language_difference"]:
        parts = [
            f"{TITLES[task].lower()} {value['difference']:+.2f} ± {value['standard_error']:.2f}"
            for task, value in report["language_difference"].items()
        ]
        lines.append(f"Chinese less English, on the same scenes: {', '.join(parts)}.")
    if report["size_exact"] is not None:
        lines.append(f"Size exactly as asked: {number(report['size_exact'])} of all pictures.")
    if report["preserved"] is not None:
        lines.append(f"Things that an edit should leave alone are still there: {number(report['preserved'])}.")
    for task, reasons in report["reasons"].items():
        if reasons:
            counts = ", ".join(f"{name} {count}" for name, count in reasons.items())
            lines.append(f"What is wrong with pictures ({TITLES[task].lower()}): {counts}.")
    for name, scorer in report["scorer"].items():
        lines.append(f"The scorer reads {scorer['exact']:.1%} of {scorer['scenes']} {name} scenes exactly.")
    settings = report["settings"]
    if settings:
        lines.append(f"Checkpoint {settings['checkpoint']}, seed {settings['seed']}, {settings['seconds']:.0f} s.")
    return "\n".join(lines)


__all__ = ["choices_text", "number", "report_text", "table"]
