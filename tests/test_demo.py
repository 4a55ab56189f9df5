"""The demo of the shapes world: with a model that does right, with an untrained one, and its sheet and tables."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from transformers_wallaroo import embedded
from transformers_wallaroo.evaluation import shapes
from transformers_wallaroo.shapes import KINDS, SIZES, Scene, Thing, render

import demo
from untrained import save_untrained


class Processor:
    row_ends = True


class Model:
    def num_parameters(self):
        return 5_000_000


def oracle(samples, seed):  # noqa: ARG001
    """What is right, but for the first sample, which is wrong."""
    outputs = [s["meta"]["answer"] if s["task"] == "understand" else s["image"] for s in samples]
    return ["什么" if samples[0]["task"] == "understand" else samples[1]["image"], *outputs[1:]]


def run_demo(monkeypatch, *arguments) -> None:
    monkeypatch.setattr("sys.argv", ["demo.py", *map(str, arguments)])
    demo.main()


def test_demo_writes_pictures_a_sheet_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "load_checkpoint", lambda checkpoint: (Model(), Processor()))  # noqa: ARG005
    monkeypatch.setattr(demo, "respond_with", lambda model, processor: oracle)  # noqa: ARG005
    out = tmp_path / "out"
    run_demo(monkeypatch, "--output", out)
    report = json.loads((out / "table.json").read_text(encoding="utf-8"))
    entries = report["entries"]
    assert report["checkpoint"] == "wallaroo-tiny"
    for task, kinds in KINDS.items():
        own = [entry for entry in entries if entry["task"] == task]
        assert {entry["kind"] for entry in own} == set(kinds)
        assert {entry["language"] for entry in own} == {"en", "zh"}
        assert {(entry["height"], entry["width"]) for entry in own} == set(SIZES)
        assert [entry["right"] for entry in own] == [False] + [True] * (len(own) - 1)
    for entry in entries:
        picture = Image.open(out / entry["file"])
        assert picture.size == (entry["width"], entry["height"])
        large = Image.open(out / entry["file"].replace("pictures/", "large/"))
        assert large.size == (8 * entry["width"], 8 * entry["height"])
        assert entry["asked_in_english"].isascii() and entry["asked"].isascii() == (entry["language"] == "en")
        assert ("source" in entry) == (entry["task"] == "edit")
        assert ("expected" in entry) == (entry["task"] != "generate") and ("reasons" in entry) == (
            entry["task"] != "understand"
        )
        if entry["task"] != "generate":
            assert (entry["got"] == entry["expected"]) == entry["right"], "a wrong one can be told from the right one"
    sheet = Image.open(out / "contact_sheet.png")
    assert sheet.width > 1000 and {demo.RIGHT, demo.WRONG} <= {color for _, color in sheet.getcolors(1 << 24)}
    table = (out / "table.md").read_text(encoding="utf-8")
    assert sum(line.startswith("| [") for line in table.splitlines()) == len(entries)
    assert "| 什么 | no; expected: " in table and "| yes |" in table
    [drawing], [edit] = (
        [line for line in table.splitlines() if line.startswith(f"| [{task}]") and "| no: " in line]
        for task in ("generate", "edit")
    )
    assert "size" in drawing.split("| no: ")[1] and "expected" not in drawing
    assert "; expected: " in edit.split("| no: ")[1] and "(row " in edit
    text = capsys.readouterr().out
    assert "wallaroo-tiny: a tiny model of 5.0 M parameters" in text and "Edits: 8 of 9 right" in text


def test_pictures_that_differ_are_described_apart():
    """Places and style too, which the answers to questions leave out."""
    things = (Thing("star", "red", 0, 1), Thing("circle", "orange", 1, 0))
    scene = Scene(2, 3, "white", things)
    text = "a red star (row 1, column 2) and an orange circle (row 2, column 1) on a white background"
    assert demo.describe(render(scene)) == text
    assert demo.describe(render(replace(scene, style="outlined"))) == f"{text}, outlined"
    moved = scene.with_things([replace(things[0], row=1), things[1]])
    assert demo.describe(render(moved)) != text
    assert demo.describe(render(Scene(2, 2, "black"))) == "nothing on a black background"
    assert demo.describe(Image.new("RGB", (32, 32), (128,) * 3)) == "nothing on a white background (4 odd cells)"


def test_demo_runs_a_checkpoint(tmp_path, monkeypatch, capsys):
    """An untrained one, as the embedded and as a named checkpoint; one sample of each task."""
    checkpoint = save_untrained(tmp_path / "untrained")
    monkeypatch.setattr(embedded, "TINY", checkpoint)
    monkeypatch.setattr(shapes, "MAX_NEW_TOKENS", 6)
    samples_of = demo.samples_of
    monkeypatch.setattr(demo, "samples_of", lambda *arguments: samples_of(*arguments)[:1])
    for arguments in ((), ("--checkpoint", checkpoint)):
        run_demo(monkeypatch, "--output", tmp_path / "out", *arguments)
        text = capsys.readouterr().out
        name = str(checkpoint) if arguments else "wallaroo-tiny"
        assert text.startswith(f"{name}: ") and "0 of 1 right" in text
        report = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
        assert [entry["task"] for entry in report["entries"]] == ["understand", "generate", "edit"]
        assert report["checkpoint"] == name
        assert report["entries"][1]["reasons"] and "odd cells" in report["entries"][1]["got"]


def test_demo_without_a_checkpoint_says_so(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"demo: `checkpoint` must be a folder .* there is no folder /nowhere"):
        run_demo(monkeypatch, "--output", tmp_path, "--checkpoint", "/nowhere")


def test_demo_help(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_demo(monkeypatch, "--help")
    text = capsys.readouterr().out
    for option in ("--output", "--checkpoint", "--seed"):
        assert option in text
