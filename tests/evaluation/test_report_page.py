# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The page: a run with its pictures, what is missing, scores beside the paper's, and that it needs nothing else."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.evaluation import report_parts
from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS
from transformers_wallaroo.evaluation.report_page import save_report_page
from transformers_wallaroo.evaluation.samples import jobs_of

from benchmark_prompts import write_geneval, write_imgedit


def write_run(folder, name="geneval", *, side=64, **changes):
    """A run as the runner leaves it, its pictures of one colour."""
    folder.mkdir()
    prompts = {"geneval": write_geneval, "imgedit": write_imgedit}[name](folder)
    samples = BENCHMARKS[name].read(prompts)
    for sample in samples:
        for path, text in sample.texts.items():
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).write_text(text)
    for job in jobs_of(samples):
        (folder / "images" / job.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), "teal").save(folder / "images" / job.path)
    run = {
        "benchmark": name,
        "checkpoint": "wallaroo-7b",
        "settings": {"seed": 0, "paper": True, "departures": [], "top_k": 1000},
        "prompts": str(prompts),
        "reading": {},
        "limit": None,
        "files": sum(1 for _ in jobs_of(samples)),
        "samples": len(samples),
        "complete": True,
        "sessions": [{"device": "cuda", "processes": 8, "batch_size": 16, "seconds": 90.0, "versions": {"torch": "2"}}],
    }
    (folder / "run.json").write_text(json.dumps({**run, **changes}))
    return folder


def page_of(tmp_path, *paths, **options):
    save_report_page(paths, tmp_path / "report.html", **options)
    assert not list(tmp_path.glob("*.partial"))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def pictures_of(page):
    """What stands in each `src`, opened."""
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/") for source in sources)
    return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


def test_a_run_with_pictures_prompts_and_settings(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "run"))
    assert [picture.size for picture in pictures_of(page)] == [(64, 64)] * 12
    assert "two stars" in page and "top_k 1000" in page and ">complete<" in page and "wallaroo-7b" in page
    assert "GenEval has 553 prompts, these are 3: do not compare the scores." in page
    # It fetches nothing.
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page) and 'name="viewport"' in page


def test_pictures_are_made_small_and_are_limited(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "run", side=512), pictures=2)
    assert [picture.size for picture in pictures_of(page)] == [(256, 256)] * 8
    assert "a red circle" in page and "two stars" in page and "a circle left of a star" not in page
    assert not pictures_of(page_of(tmp_path, tmp_path / "run", pictures=0))


def test_an_edit_stands_beside_its_source(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "run", "imgedit"))
    assert [picture.size for picture in pictures_of(page)] == [(64, 32), (64, 64)] * 3
    assert page.count('class="source"') == 3


def test_prompts_are_text_and_not_html(tmp_path):
    evil = '<img src=x onerror="alert(1)"> & "quotes"'
    folder = write_run(tmp_path / "run", checkpoint="<b>7b</b>")
    prompts = folder / "evaluation_metadata.jsonl"
    prompts.write_text(prompts.read_text().replace('"a red circle"', json.dumps(evil)))
    page = page_of(tmp_path, folder, title="a < b")
    assert evil not in page and "<b>" not in page and "&lt;img src=x" in page and "a &lt; b" in page
    assert 'onerror="' not in page


def test_what_is_missing_or_failed_is_told(tmp_path):
    folder = write_run(tmp_path / "run", complete=False)
    (folder / "images" / "00001" / "samples" / "00002.png").unlink()
    (folder / "images" / "00002" / "samples" / "00000.png").write_bytes(b"no picture")
    failure = {"path": "00001/samples/00002.png", "where": "line 2", "error": "ValueError: <no>"}
    (folder / "failures.json").write_text(json.dumps([failure]))
    page = page_of(tmp_path, folder)
    assert "not complete<" in page and "missing 1: 00001/samples/00002.png" in page and "unreadable 1:" in page
    assert "failed (line 2): ValueError: &lt;no&gt;" in page and "--resume goes on with it" in page
    assert len(pictures_of(page)) == 10


def test_a_run_that_calls_itself_complete_is_looked_through(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "images" / "00001" / "samples" / "00002.png").unlink()
    [part] = save_report_page([folder], tmp_path / "report.html")
    assert part.complete is False and part.problems == ["missing 1: 00001/samples/00002.png"]


def test_prompts_that_are_gone(tmp_path):
    folder = write_run(tmp_path / "run", settings={"paper": True, "departures": ["size"]})
    (folder / "evaluation_metadata.jsonl").unlink()
    page = page_of(tmp_path, folder)
    assert "The prompts could not be read, so that pictures stand without them" in page
    assert len(pictures_of(page)) == 12 and "These settings are not the paper&#39;s: size." in page


def test_scores_stand_beside_the_papers(tmp_path):
    page = page_of(tmp_path, scores=["geneval/overall=0.74", "imgedit/overall=2.92", "dpg/overall=80"])
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", line) for line in page.splitlines() if line.startswith("<tr title")]
    assert len(rows) == 7 + 7 + 6 + 10
    overall = [row for row in rows if row[0] == "Overall"]
    assert overall == [
        ["Overall", "0.74", "0.75", "-0.01"],
        ["Overall", "80.00", "79.35", "+0.65"],
        ["Overall", "2.92", "2.92", "+0.00"],
    ]
    assert rows[0] == ["POPE", "-", "86.4", ""]
    assert page.count('class="above"') == page.count('class="below"') == 1


def test_reports_of_shapes_vq_and_fid(tmp_path):
    kinds = {"generate": {"color": {"samples": 9}}}
    scores = {"overall": {"generate": 0.5}, "standard_error": {"generate": 0.1}, "held_out": {}, "kinds": kinds}
    (tmp_path / "shapes.json").write_text(json.dumps({**scores, "settings": {"seed": 3}}))
    vq = {"checkpoint": "c", "pictures": 4, "from": "f", "sizes": {"64x64": 4}, "codes_used": 7, "codebook": 8}
    (tmp_path / "vq.json").write_text(json.dumps({**vq, "psnr": 31.25, "ssim": 0.9}))
    fid = {"generated": "a", "reference": "b", "pictures": [1, 2], "fid": 11.04}
    (tmp_path / "fid.json").write_text(json.dumps(fid))
    page = page_of(tmp_path, *(tmp_path / f"{name}.json" for name in ("shapes", "vq", "fid")))
    assert "<td>Generation</td><td>0.50 ± 0.10</td><td>-</td><td>9</td>" in page
    assert "31.250" in page and "7 of 8" in page and "11.040" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no run.json. A run's is its --output"),
        ("{", "is no JSON"),
        ("[]", "has no 'benchmark' \\(str\\): it is not as a run wrote it"),
        ('{"benchmark": "geneval"}', "has no 'settings' \\(dict\\)"),
    ],
)
def test_folders_that_are_no_runs(tmp_path, content, message):
    folder = write_run(tmp_path / "run")
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        save_report_page([folder], tmp_path / "report.html")
    told = CliRunner().invoke(cli.app, ["eval", "report", str(folder), "--output", str(tmp_path / "report.html")])
    assert told.exit_code == 2 and len(told.stderr.strip().splitlines()) == 1, told.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("{}", "but .* is none. Scores of the official scorers go into `--scores`"),
        ('{"psnr": 1.0, "ssim": 1.0}', "is not as `wallaroo eval` writes it: KeyError"),
    ],
)
def test_files_that_are_no_reports(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        save_report_page([tmp_path / "a.json"], tmp_path / "report.html")


def test_what_cannot_be_reported(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to report"):
        save_report_page([], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"but there is no .*nowhere"):
        save_report_page([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(ValueError, match="`pictures` must be 0 or more"):
        save_report_page([tmp_path], tmp_path / "report.html", pictures=-1)
    with pytest.raises(ValueError, match="`output` must be a file"):
        save_report_page([tmp_path], tmp_path)


def test_the_command(tmp_path):
    folder = write_run(tmp_path / "run", complete=False)
    arguments = ["eval", "report", str(folder), "--scores", "geneval/overall=0.5", "--output", str(tmp_path / "r.html")]
    told = CliRunner().invoke(cli.app, [*arguments, "--pictures", "1"])
    assert told.exit_code == 0 and told.stdout.strip() == str(tmp_path / "r.html"), told.stderr
    assert "is not complete: 1 problems are on the page" in told.stderr
    assert "-0.25" in (tmp_path / "r.html").read_text()


def test_a_page_of_before_stays_where_the_new_one_fails(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("before")
    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(report_parts, "picture_url", lambda _picture: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_report_page([folder], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "before"
