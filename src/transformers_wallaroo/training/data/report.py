# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What was found in a mixture, as lines of a table, and as one page of HTML with plots, which needs no other file."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..resuming import write_whole
from .check import SourceCheck, spread_of

HEADER = ("source", "samples", "share", "read", "kept", "left out", "width", "height", "ratio", "tokens")
BINS = 24
WIDTH, HEIGHT = 300, 110  # of a plot, in pixels
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1080px;padding:0 1em;color:#223}"
    "table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #dde}"
    "td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.6em 1em .6em 0}"
    "figcaption{font-size:13px;color:#556}rect{fill:#4a7}text{font-size:10px;fill:#556}.bad{color:#b22}"
    "img{max-height:150px;margin:2px}.sample{display:inline-block;vertical-align:top;margin:.4em;width:320px;"
    "font-size:12px}"
)


def lines_of(checks: Sequence[SourceCheck]) -> list[list[str]]:
    """A line for each source, in the order of `HEADER`; of sizes and lengths least, middle and most."""
    return [
        [
            f"{check.task} / {check.name}",
            f"{check.size:,}",
            f"{check.share:.1%}",
            f"{check.read:,}",
            f"{check.kept:,}",
            f"{sum(check.dropped.values()):,}",
            spread_of(check.widths),
            spread_of(check.heights),
            spread_of(check.ratios),
            spread_of(check.tokens),
        ]
        for check in checks
    ]


def remarks_of(check: SourceCheck) -> list[str]:
    """What was left out and why, sizes in which images are learned, and what else is to be said of a source."""
    remarks = [f"{note}" for note in check.notes]
    for reason, count in check.dropped.most_common():
        share = f"{count / check.read:.1%}"
        remarks.append(f"{reason}: {count} left out ({share}), such as:")
        remarks += [f"  {example}" for example in check.examples[reason]]
    if check.buckets:
        sizes = ", ".join(f"{size} ({count})" for size, count in check.buckets.most_common(8))
        remarks.append(f"learned in {sizes}")
    if check.too_many_faults:
        remarks.append(
            f"TOO MANY FAULTS: {check.faults} of {check.read} samples, but `max_dropped` is {check.max_dropped:g}. "
            "Mend them, allow more, or look at more with --samples."
        )
    if check.error is not None:
        remarks.append(f"STOPPED: {check.error}")
    return remarks


def save_report(checks: Sequence[SourceCheck], folder: Path, title: str) -> Path:
    """Writes `stats.json` and `report.html` into the folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    values = json.dumps([check.to_dict() for check in checks], ensure_ascii=False, indent=1)
    write_whole(folder / "stats.json", values + "\n")
    write_whole(folder / "report.html", page(checks, title))
    return folder / "report.html"


def page(checks: Sequence[SourceCheck], title: str) -> str:
    """The page as HTML."""
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines_of(checks))
    note = "Of width, height, ratio (width over height) and tokens: least, middle and most of what was read."
    return (
        f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><table><tr>{head}</tr>{body}</table><p>{note}</p>"
        + "".join(_section(check) for check in checks)
        + "</html>\n"
    )


def _section(check: SourceCheck) -> str:
    remarks = "".join(
        f"<li{' class=bad' if remark.startswith('STOPPED') else ''}>{html.escape(remark)}</li>"
        for remark in remarks_of(check)
    )
    plots = [
        histogram(check.widths, "width in pixels"),
        histogram(check.heights, "height in pixels"),
        histogram(check.ratios, "width over height"),
        histogram(check.tokens, "tokens a sample"),
        histogram(check.text_tokens, "of these text"),
    ]
    shown = "".join(
        f"<div class=sample>{''.join(map(_picture, pictures))}<br>{html.escape(caption[:300])}</div>"
        for caption, pictures in check.shown
    )
    title = html.escape(f"{check.task} / {check.name}")
    return f"<h2>{title}</h2><ul>{remarks}</ul>{''.join(plots)}<div>{shown}</div>"


def histogram(values: Sequence[float], caption: str) -> str:
    """A figure with bars; nothing where there are no values."""
    if not values:
        return ""
    counts, edges = np.histogram(np.asarray(values, dtype=float), bins=BINS)
    step = WIDTH / BINS
    bars = ""
    for at, count in enumerate(counts.tolist()):
        tall, told = HEIGHT * count / counts.max(), f"{edges[at]:.4g} to {edges[at + 1]:.4g}: {count}"
        place = f'x="{at * step:.1f}" y="{HEIGHT - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}"'
        bars += f"<rect {place}><title>{told}</title></rect>"
    ends = (
        f'<text x="0" y="{HEIGHT + 12}">{edges[0]:.4g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 12}" text-anchor="end">{edges[-1]:.4g}</text>'
    )
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT + 16}">{bars}{ends}</svg>'
        f"<figcaption>{html.escape(caption)}; the highest bar is {counts.max()}</figcaption></figure>"
    )


def _picture(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


__all__ = ["HEADER", "histogram", "lines_of", "page", "remarks_of", "save_report"]
