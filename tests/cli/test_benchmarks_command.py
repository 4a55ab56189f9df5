# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo eval geneval`, `dpg`, `imgedit`, `gedit`, `check`, `vq` and `fid`."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_wallaroo import cli

from benchmark_prompts import WRITERS

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, ["eval", *map(str, arguments)])


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_benchmark_from_prompts_to_a_checked_folder(tmp_path, name):
    prompts, output = WRITERS[name](tmp_path), tmp_path / "run"
    size = ["--size", 32] if name in ("geneval", "dpg") else []
    first = invoke(name, "--prompts", prompts, "--output", output, "--limit", 1, "--device", "cpu", *size)
    assert first.exit_code == 0, first.stderr
    assert "this is the embedded one, wallaroo-tiny" in first.stderr
    assert f"for the scorer: {output / 'images'}" in first.stderr
    check = invoke("check", name, output, "--limit", 1)
    assert check.exit_code == 0 and check.stdout.strip().endswith("Complete."), check.stdout
    check = invoke("check", name, output)
    assert check.exit_code == 1 and "missing" in check.stdout and check.stdout.strip().endswith("Not complete.")
    again = invoke(name, "--prompts", prompts, "--output", output, "--device", "cpu", *size)
    assert again.exit_code == 2 and again.stderr.strip().splitlines()[-1].startswith("wallaroo: `output`")
    assert "--resume" in again.stderr
    on = invoke(name, "--prompts", prompts, "--output", output, "--device", "cpu", "--resume", *size)
    assert on.exit_code == 0 and invoke("check", name, output, "--prompts", prompts).exit_code == 0


def test_the_papers_settings_and_what_departs_from_them(tmp_path):
    prompts = WRITERS["dpg"](tmp_path)
    arguments = ["dpg", "--prompts", prompts, "--limit", 1, "--device", "cpu", "--paper"]
    made = invoke(*arguments, "--size", 32, "--output", tmp_path / "a")
    assert made.exit_code == 0 and "These settings are not the paper's: size." in made.stderr
    settings = json.loads((tmp_path / "a" / "run.json").read_text())["settings"]
    assert (settings["guidance_scale"], settings["top_p"], settings["layout"]) == (4.0, 0.95, "evaluation")
    # wallaroo-tiny cannot make 512 x 512, and says so, instead of making something else.
    refused = invoke(*arguments, "--output", tmp_path / "b")
    assert refused.exit_code == 2 and re.search("512 x 512 pixels .* but the limit is 512", refused.stderr)


def test_a_listed_failure_makes_the_status_one(tmp_path):
    prompts = WRITERS["imgedit"](tmp_path)
    (tmp_path / "things" / "0.jpg").write_bytes(b"no picture")
    made = invoke(
        "imgedit", "--prompts", prompts, "--output", tmp_path / "run", "--on-error", "list", "--device", "cpu"
    )
    assert made.exit_code == 1 and "1 could not be made and are missing; " in made.stderr
    assert "missing 1: 40.png" in invoke("check", "imgedit", tmp_path / "run").stdout


def test_each_command_has_the_options_that_it_needs():
    options = {name: invoke(name, "--help").stdout for name in WRITERS}
    assert [name for name in options if "--size" in options[name]] == ["geneval", "dpg"]
    assert [name for name in options if "--sources" in options[name]] == ["imgedit"]
    assert [name for name in options if "--method" in options[name]] == ["gedit"]
    assert all("--paper" in text and f"wallaroo eval {name} --checkpoint" in text for name, text in options.items())


def test_wrong_prompts_are_told_before_anything_is_loaded(tmp_path):
    (tmp_path / "p.jsonl").write_text("{}")
    told = invoke(
        "geneval", "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "run", "--checkpoint", "/nowhere"
    )
    assert told.exit_code == 2 and "p.jsonl, line 1: there is no field 'tag'" in told.stderr


@pytest.mark.parametrize("name", [*WRITERS, "vq"])
def test_the_variable_names_the_checkpoint(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WALLAROO_CHECKPOINT", "/nowhere")
    arguments = [] if name == "vq" else ["--prompts", WRITERS[name](tmp_path), "--output", tmp_path / "run"]
    told = invoke(name, *arguments, "--device", "cpu")
    assert told.exit_code == 2 and "/nowhere" in told.stderr and "embedded" not in told.stderr


def test_json_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """A kill before the file has its name leaves the one that was there."""
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    (tmp_path / "out.json").write_text("before")

    def stop(*_arguments):
        raise OSError("stopped")

    monkeypatch.setattr("pathlib.Path.replace", stop)
    told = invoke("vq", "--pictures", tmp_path, "--size", 32, 32, "--device", "cpu", "--json", tmp_path / "out.json")
    assert told.exit_code == 2 and (tmp_path / "out.json").read_text() == "before"


def test_reconstruction_and_distance(tmp_path):
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    arguments = ["--pictures", tmp_path, "--size", 32, 32, "--device", "cpu", "--json", tmp_path / "out.json"]
    told = invoke("vq", *arguments)
    assert told.exit_code == 0 and "Without rFID: --fid-weights was not given." in told.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report == json.loads(told.stdout) and report["pictures"] == 1 and report["psnr"] > 30
    (tmp_path / "broken.png").write_bytes(b"no picture")
    told = invoke("vq", *arguments)
    assert told.exit_code == 1 and "1 of the files cannot be read and are not in the numbers: " in told.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [entry["path"] for entry in report["unreadable"]] == [str(tmp_path / "broken.png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "out.json", "white.png"]
    told = invoke("fid", tmp_path, tmp_path)
    assert told.exit_code == 2 and "`weights` must be the file of the Inception network" in told.stderr
