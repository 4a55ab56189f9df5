# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo data`: what it prints, its contact sheet and its report, and how it ends."""

import json
import re

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.training import resuming
from transformers_wallaroo.training.data import check

from killing import killed_at
from published import write, write_blip3o, write_gpt_image_edit, write_llava, write_parquet

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, ["data", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A mixture of three sources, of which one has a broken picture, a missing one and a truncated tar."""
    folder = tmp_path_factory.mktemp("data")
    llava = write_llava(folder / "llava")
    (folder / "llava" / "images" / "coco" / "train2017" / f"{0:012d}.jpg").unlink()
    write(folder / "llava" / "images" / "coco" / "train2017" / f"{1:012d}.jpg", b"x")
    tars = write_blip3o(folder / "blip3o", 8)
    content = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(content[: len(content) // 2])
    entries = {
        "generate": [
            {"webdataset": {"path": str(tars)}, "name": "blip3o", "weight": 3, "filters": {"max_text": 1000}},
            {"shapes": {"seed": 5}},
        ],
        "edit": {"gpt_image_edit": {"path": str(write_gpt_image_edit(folder / "gpt-edit"))}},
        "understand": {
            "llava": {"path": str(llava), "images": str(folder / "llava" / "images")},
            "max_dropped": 0.5,
        },
    }
    return write(folder / "mixture.yaml", yaml.safe_dump({"data": entries}))


def test_check_prints_a_row_a_source_and_draws_a_sheet(mixture, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    result = invoke("check", mixture, "--samples", 20, "--sheet", sheet)
    assert result.exit_code == 0, result.stderr
    rows = {line.split("|")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("| ")}
    assert set(rows) >= {"generate / blip3o", "generate / shapes", "edit / gpt_image_edit", "understand / llava"}
    cells = [cell.strip() for cell in rows["understand / llava"].split("|")[2:8]]
    assert cells == ["7", "100.0%", "7", "5", "2", cells[5]]
    assert "75.0%" in rows["generate / blip3o"] and "25.0%" in rows["generate / shapes"]
    assert "unreadable: 1 left out (14.3%)" in result.stdout
    assert re.search(r"missing_file: 1 left out.*\n.*row 1 names 'coco/train2017/0+.jpg'", result.stdout)
    assert "00001.tar is truncated" in result.stdout
    assert "sizes and tokens are those of wallaroo-tiny" in result.stderr
    assert Image.open(sheet).height > 400


def test_stats_write_a_page_that_needs_no_other_file(mixture, tmp_path):
    result = invoke("stats", mixture, "--samples", 5, "--output", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4 * 4 and 'src="data:image/jpeg;base64,' in page
    assert "http" not in page and "generate / blip3o" in page
    figures = json.loads((tmp_path / "report" / "stats.json").read_text(encoding="utf-8"))
    assert [(entry["task"], entry["name"]) for entry in figures][1:3] == [
        ("generate", "blip3o"),
        ("generate", "shapes"),
    ]
    assert all(len(entry["tokens"]) == entry["kept"] <= entry["read"] == 5 for entry in figures if entry["size"] >= 5)


@pytest.mark.parametrize(
    ("owner", "name", "call", "left"),
    [
        (check, "open_source", 2, set()),  # a source has been read
        (resuming.os, "replace", 1, set()),  # the figures are written, but have not their name
        (resuming.os, "replace", 2, {"stats.json"}),  # and here the page is
    ],
)
def test_a_kill_leaves_whole_files_and_the_same_command_ends(mixture, tmp_path, owner, name, call, left):
    """The sources are read anew: that takes no longer than it took."""
    assert invoke("stats", mixture, "--samples", 5, "--output", tmp_path / "whole").exit_code == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    output = tmp_path / "killed"
    killed_at(owner, name, call, lambda: invoke("stats", mixture, "--samples", 5, "--output", output))
    files = {path.name: path.read_bytes() for path in output.glob("[!.]*")}
    assert files.keys() == left and files.items() <= whole.items()
    assert invoke("stats", mixture, "--samples", 5, "--output", output).exit_code == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == whole


def test_a_source_that_cannot_be_read_is_told_and_ends_in_1(mixture, tmp_path):
    entries = yaml.safe_load(mixture.read_text())["data"]
    entries["understand"]["llava"]["path"] = str(write(tmp_path / "a.json", [{"id": 1, "conversation": []}]))
    changed = write(tmp_path / "mixture.yaml", yaml.safe_dump({"data": entries}))
    result = invoke("check", changed, "--samples", 3, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "STOPPED: " in result.stdout and "has no field 'conversations' or 'messages'" in result.stdout
    assert "| generate / blip3o" in result.stdout


def test_what_any_source_raises_does_not_end_the_others(mixture, tmp_path, monkeypatch):
    """`datasets` and PyAV have errors of their own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    entries = yaml.safe_load(mixture.read_text())["data"]
    broken = write_parquet(tmp_path / "a.parquet", [{"prompt": f"number {number}"} for number in range(100)])
    content = broken.read_bytes()
    broken.write_bytes(content[:4] + b"\xff" * 200 + content[204:])  # its end, which has the schema, is whole
    entries["generate"].insert(0, {"parquet": {"path": str(broken)}})
    changed = write(tmp_path / "mixture.yaml", yaml.safe_dump({"data": entries}))
    result = invoke("check", changed, "--samples", 3, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert re.search(r"generate / parquet\n  STOPPED: DatasetGenerationError: .* \(\w+: ", result.stdout)
    assert "| generate / blip3o" in result.stdout and "| understand / llava" in result.stdout


def test_more_faults_than_training_takes_end_in_1(mixture, tmp_path):
    entries = {"understand": yaml.safe_load(mixture.read_text())["data"]["understand"]}
    del entries["understand"]["max_dropped"]
    changed = write(tmp_path / "mixture.yaml", yaml.safe_dump({"data": entries}))
    result = invoke("check", changed, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "TOO MANY FAULTS: 2 of 7 samples, but `max_dropped` is 0.01." in result.stdout


def test_filters_that_keep_few_are_told(tmp_path):
    for number in range(30):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
        write(tmp_path / f"{number}.txt", "this one" if number == 7 else "another")
    entries = {"generate": {"folder": {"path": str(tmp_path)}, "filters": {"match": "this"}}}
    changed = write(tmp_path / "mixture.yaml", yaml.safe_dump({"data": entries}))
    result = invoke("check", changed, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0
    assert "1 of 30 samples pass the filters: a run reads the others in vain" in result.stdout


def test_a_recipe_brings_its_limits(mixture, tmp_path):
    from transformers_wallaroo import tiny_path

    entries = yaml.safe_load(mixture.read_text())["data"]
    recipe = {"stage": "4", "init": str(tiny_path()), "output": "o", "train": ["language_model"], "steps": 1}
    recipe |= {"tasks": {"understand": 1}, "learning_rate": 0.1, "limits": {"understand": 10}}
    recipe |= {"data": {"understand": entries["understand"]}}
    path = write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    result = invoke("check", path, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1 and "too_long: 5 left out" in result.stdout
    assert "wallaroo-tiny" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("check", "/nowhere.yaml"), "There is no recipe '/nowhere.yaml'"),
        (("check", "MIXTURE", "--samples", 0), "`--samples` must be 1 or more, but got 0"),
        (("check", "MIXTURE", "--sheet", "/"), "`--sheet` must be a file, but / is a folder"),
    ],
)
def test_bad_input_ends_in_a_sentence(mixture, arguments, complaint):
    result = invoke(*(mixture if argument == "MIXTURE" else argument for argument in arguments))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("wallaroo: ") and complaint in result.stderr
