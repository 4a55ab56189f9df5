# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`make eval-smoke`: what it runs, what it says, and that it notices what is missing."""

import re
from pathlib import Path

import pytest

from transformers_wallaroo.evaluation import runner
from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS

import eval_smoke

ROOT = Path(__file__).parents[1]


def table_of(text):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    head, _, made, complete = lines
    return {name: (made[place], complete[place]) for place, name in enumerate(head) if name}


def test_prompts_pictures_checks_and_a_table(tmp_path, capfd):
    output = tmp_path / "smoke"
    assert eval_smoke.main(["--output", str(output), "--only", "dpg", "gedit", "vq"]) == 0
    told = capfd.readouterr().out
    # GEdit-Bench has both languages of two edits, each beside its source.
    assert table_of(told) == {"dpg": ("3 files", "yes"), "gedit": ("8 files", "yes"), "vq": ("16 pictures", "yes")}
    commands = re.findall(r"^\$ wallaroo eval ([a-z]+ ?[a-z]*)", told, flags=re.MULTILINE)
    assert [command.strip() for command in commands] == ["dpg", "check dpg", "gedit", "check gedit", "vq"]
    assert eval_smoke.main(["--output", str(output), "--only", "vq"]) == 0, "a folder of its own is made anew"
    assert not (output / "dpg").exists()


def test_all_benchmarks_are_run_and_the_makefile_does_so():
    assert set(eval_smoke.STEPS) == {*BENCHMARKS, "vq", "shapes"}
    recipe = re.search(r"^eval-smoke:.*\n\t(.*)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    assert recipe.split("python ")[1] == "examples/eval_smoke.py --output runs/eval-smoke"


def test_what_is_missing_makes_the_status_one(tmp_path, monkeypatch, capfd):
    def fail(*_arguments, **_options):
        raise ValueError("out of ink.")

    monkeypatch.setattr(runner, "make_images", fail)
    assert eval_smoke.main(["--output", str(tmp_path / "smoke"), "--only", "imgedit", "vq"]) == 1
    told = capfd.readouterr()
    assert table_of(told.out) == {"imgedit": ("0 files", "NO"), "vq": ("16 pictures", "yes")}
    assert "out of ink" in told.err and "missing 3: 40.png" in told.out


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="is there, and not by an earlier call of this"):
        eval_smoke.main(["--output", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
