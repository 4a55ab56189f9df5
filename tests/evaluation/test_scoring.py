# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs of `eval shapes` that keep what they scored: kills, processes, refusals."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.evaluation import evaluate_shapes, scoring, shapes
from transformers_wallaroo.evaluation.report import ScoredSample
from transformers_wallaroo.evaluation.report_page import save_report_page
from transformers_wallaroo.evaluation.scoring import ScoredStore, ScoringJob, score_jobs

from forking import in_processes
from killing import killed_at

ROOT = Path(__file__).parents[2]
# Batches of each part: of drawings 3, 2 and 2, of choices 3.
TASKS, SAMPLES, HELD_OUT, BATCH, FILES = ["generate", "choose"], 12, 5, 4, 10


@pytest.fixture(scope="module")
def go(untrained_model):
    """The report of a run, as JSON has it, without its time."""

    def run(output, **options):
        options = {"tasks": TASKS, "samples": SAMPLES, "held_out": HELD_OUT, "batch_size": BATCH, **options}
        report = evaluate_shapes(
            *untrained_model, output=output, seed=3, show_progress=False, guidance_scale=1, **options
        ).to_dict()
        assert report["settings"].pop("seconds") >= 0
        return report

    return run


@pytest.fixture(scope="module")
def made_once(go, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "whole"
    return folder, go(folder)


@pytest.fixture
def whole(made_once, tmp_path):
    """A run of one process that nobody stopped: its folder, which a test may spoil, and its report."""
    folder, report = made_once
    return Path(shutil.copytree(folder, tmp_path / "whole")), copy.deepcopy(report)


def scored_of(output):
    """What a run has scored, each file with its time."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (output / "scored").glob("*")}


def contents(output):
    return {name: content for name, (_, content) in scored_of(output).items()}


def saved(output):
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    del report["settings"]["seconds"]
    return report


def run_json(output):
    return json.loads((output / "run.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ kills and processes


@pytest.mark.parametrize(("call", "after"), [(1, True), (5, False), (9, True)])
def test_a_killed_run_goes_on_and_loses_and_redoes_nothing(go, whole, tmp_path, monkeypatch, call, after):
    """After the first batch, before one is written, and in the choice of head."""
    folder, expected = whole
    output = tmp_path / "killed"
    killed_at(scoring, "write_whole", call, lambda: go(output), after=after)
    before = scored_of(output)
    assert len(before) == call - (not after)
    assert not run_json(output)["complete"] and not (output / "report.json").exists()
    added = []
    add = ScoredStore.add
    monkeypatch.setattr(ScoredStore, "add", lambda self, *args: added.append(args) or add(self, *args))
    assert go(output, resume=True) == saved(output) == expected
    assert len(added) == FILES - len(before)
    assert all(scored_of(output)[name] == was for name, was in before.items())
    assert contents(output) == contents(folder) and len(contents(folder)) == FILES
    run = run_json(output)
    assert run["complete"] and len(run["sessions"]) == 2 and not (output / ".partial").exists()


def test_two_processes_score_what_one_scores(go, whole, tmp_path):
    """At once, after half of it is lost, and without a folder."""
    folder, expected = whole
    two = tmp_path / "two"

    def counted(_rank):
        """The report, and how many batches this process has scored."""
        added, add = [], ScoredStore.add
        ScoredStore.add = lambda self, *args: added.append(args) or add(self, *args)
        return go(two), len(added)

    # Both have the report, whoever has put it together.
    assert in_processes(counted, tmp_path / "told") == [(expected, FILES // 2)] * 2
    assert contents(two) == contents(folder) and saved(two) == expected
    assert run_json(two)["sessions"][0]["processes"] == 2
    for path in sorted((two / "scored").glob("*"))[::2]:
        path.unlink()
    assert in_processes(lambda _rank: go(two, resume=True), tmp_path / "again") == [expected, expected]
    assert contents(two) == contents(folder)
    assert in_processes(lambda _rank: go(None), tmp_path / "none") == [expected, expected]

    def refused(_rank):
        with pytest.raises(ValueError, match="has a run already"):  # that of the first process, in both
            go(two)

    in_processes(refused, tmp_path / "refused")


@pytest.mark.slow
def test_accelerate_launches_two_processes(untrained, tmp_path):
    """The command: tables are printed once, and are those of one process."""
    config = str(ROOT / "examples" / "accelerate" / "ddp_cpu.yaml")
    launch = ["-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    printed = []
    for processes, name in ((1, "one"), (2, "two")):
        command = ["eval", "shapes", "--checkpoint", untrained, "--task", "generate", "--samples", 12]
        command += [
            "--batch-size",
            5,
            "--device",
            "cpu",
            "--output",
            tmp_path / name,
            "--json",
            tmp_path / f"{name}.json",
        ]
        start = [] if processes == 1 else [*launch, "--num_processes", processes]
        result = subprocess.run(
            [sys.executable, *map(str, [*start, "-m", "transformers_wallaroo.cli", *command])],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stderr.count("The report is in") == 1
        printed.append([line for line in result.stdout.splitlines() if not line.startswith("Checkpoint ")])
    assert printed[0] == printed[1] and sum(line.startswith("Generation:") for line in printed[0]) == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert saved(tmp_path / "one") == saved(tmp_path / "two")
    assert run_json(tmp_path / "two")["sessions"][0]["processes"] == 2


# ------------------------------------------------------------------ going on


def test_a_done_run_scores_nothing_and_one_of_more_tasks_adds_to_it(go, whole, tmp_path, monkeypatch):
    folder, expected = whole
    drawn = go(tmp_path / "run", tasks=["generate"])
    before = scored_of(tmp_path / "run")
    assert not drawn["choices"]
    assert go(tmp_path / "run", resume=True) == expected
    assert scored_of(tmp_path / "run").items() > before.items() and contents(tmp_path / "run") == contents(folder)

    def fail(*_args):
        raise AssertionError("nothing is to be scored")

    monkeypatch.setattr(ScoredStore, "add", fail)
    assert go(tmp_path / "run", tasks=["generate"], resume=True) == drawn == saved(tmp_path / "run")


def test_damaged_files_are_scored_anew_and_batches_may_be_others(go, whole):
    """Drawings have the seeds of their places, whatever else is missing beside them."""
    folder, expected = whole
    before = contents(folder)
    damaged = folder / "scored" / "generate-seen-000004.json"
    damaged.write_bytes(before[damaged.name][:-9])
    (folder / "scored" / "choose-000000.json").write_text('[{"task": "choose"}]')
    (folder / "scored" / "choose-000008.json").unlink()
    (folder / ".partial").mkdir()
    (folder / ".partial" / "0-1-x.json").write_bytes(b"half")
    whole_ones = {name: was for name, was in scored_of(folder).items() if was[1] == before[name]}
    again = go(folder, batch_size=5, resume=True)
    expected["settings"]["batch_size"] = 5
    assert again == expected and not (folder / ".partial").exists()
    assert len(whole_ones) == FILES - 3 and whole_ones.items() <= scored_of(folder).items()
    # What was missing of batches of 5: one sample of the first, and three of the second.
    assert len(json.loads(damaged.read_text())) == 1
    assert len(json.loads((folder / "scored" / "generate-seen-000005.json").read_text())) == 3


def test_a_run_goes_on_only_as_it_was_begun(go, whole, tmp_path, untrained_model):
    folder, _ = whole
    with pytest.raises(ValueError, match=r"has a run already. --resume"):
        go(folder)
    with pytest.raises(ValueError, match="begun otherwise: `held_out` was 5 and is 4"):
        go(folder, held_out=4, resume=True)
    with pytest.raises(ValueError, match=r"begun otherwise: `generation` was .* 'top_k': 1000.* and is .* 'top_k': 7"):
        go(folder, top_k=7, resume=True)
    with pytest.raises(ValueError, match="`resume` needs `output`, the folder of the run"):
        go(None, resume=True)
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has scored samples, but no run\.json that says whose"):
        go(folder)
    # What is wrong in what was asked leaves no folder.
    with pytest.raises(ValueError, match="`samples` must be at least 12"):
        go(tmp_path / "none", samples=3)
    nameless = copy.copy(untrained_model[0])
    nameless.name_or_path = ""
    with pytest.raises(ValueError, match="`output` needs a model that was loaded from a checkpoint"):
        evaluate_shapes(nameless, untrained_model[1], output=tmp_path / "none", tasks=["choose"], samples=12)
    assert not (tmp_path / "none").exists()


def test_the_page_has_the_choice_of_head_too(whole, tmp_path):
    folder, expected = whole
    [part] = save_report_page([folder], tmp_path / "page.html")
    assert [row[0] for row in part.rows] == ["Generation", "Choice of head"]
    assert part.rows[1][1].startswith(f"{expected['choices']['score']:.2f} ±") and part.rows[1][3] == str(SAMPLES)


def test_another_checkpoint_is_refused(go, whole, monkeypatch):
    monkeypatch.setattr(shapes, "checkpoint_hash", lambda _path: "another")
    with pytest.raises(ValueError, match=r"`checkpoint_sha256` was .* and is 'another'"):
        go(whole[0], resume=True)


# ------------------------------------------------------------------ parts


def numbered(count, calls):
    def score(start, stop):
        calls.append((start, stop))
        return [
            ScoredSample("edit", "add", "en", "64x64", "seen", place % 2, preserved=place / 7, reasons=("size",))
            for place in range(start, stop)
        ]

    return ScoringJob("edit-seen", "edit", count, score)


def test_scores_come_back_as_they_were(tmp_path):
    calls = []
    [first] = score_jobs([numbered(10, calls)], batch_size=4, show_progress=False, store=ScoredStore(tmp_path)).values()
    assert calls == [(0, 4), (4, 8), (8, 10)]
    [again] = score_jobs([numbered(10, calls)], batch_size=3, show_progress=False, store=ScoredStore(tmp_path)).values()
    assert again == first and len(calls) == 3 and [sample.preserved * 7 for sample in again] == pytest.approx(range(10))
    (tmp_path / "scored" / "edit-seen-000004.json").unlink()
    score_jobs([numbered(10, calls)], batch_size=10, show_progress=False, store=ScoredStore(tmp_path))
    assert calls[3:] == [(4, 8)]
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, but got 0"):
        score_jobs([numbered(1, calls)], batch_size=0)


def test_parts_of_one_beginning_are_told_apart(tmp_path):
    """`generate-seen` and `generate-seen_placed`."""
    store = ScoredStore(tmp_path)
    [sample] = numbered(1, []).score(0, 1)
    store.add("generate-seen_placed", 7, [sample])
    assert store.known("generate-seen") == {} and store.known("generate-seen_placed") == {7: sample}


# ------------------------------------------------------------------ the command and the page


def test_the_command_goes_on_and_the_page_shows_it(untrained, tmp_path):
    command = ["eval", "shapes", "--checkpoint", str(untrained), "--task", "generate", "--samples", "12"]
    command += ["--guidance-scale", "1", "--output", str(tmp_path / "run")]
    first = CliRunner().invoke(cli.app, command)
    assert first.exit_code == 0 and first.stdout.startswith("Generation:"), first.stderr
    again = CliRunner().invoke(cli.app, command)
    assert again.exit_code == 2 and "has a run already. --resume" in again.stderr
    (tmp_path / "run" / "scored" / "generate-held_out-000000.json").unlink()
    on = CliRunner().invoke(cli.app, [*command, "--resume"])
    lines = [text.stdout.splitlines()[:-1] for text in (first, on)]  # without the time
    assert on.exit_code == 0 and lines[0] == lines[1]
    refused = CliRunner().invoke(cli.app, ["eval", "shapes", "--resume"])
    assert refused.exit_code == 2 and "`resume` needs `output`" in refused.stderr
    [part] = save_report_page([tmp_path / "run"], tmp_path / "page.html")
    assert part.complete and part.title == "Shapes world" and part.rows[0][0] == "Generation"
    assert part.facts["samples in all"] == "24" and "2 sessions" in part.facts["time"]
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run_json(tmp_path / "run"), "complete": False}))
    [part] = save_report_page([tmp_path / "run"], tmp_path / "page.html")
    assert part.complete is False and "did not come to its end" in part.problems[0] and not part.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, but got 0"),
        ({"tasks": ["choose"], "samples": 3}, "`samples` must be at least 12 for 'choose'"),
        ({"tasks": ["chose"]}, r"`tasks` must be some of .*'choose', but got \['chose'\]"),
    ],
)
def test_what_is_wrong_leaves_no_run_and_no_other_mode(go, untrained_model, tmp_path, options, message):
    untrained_model[0].train()
    try:
        with pytest.raises(ValueError, match=message):
            go(tmp_path / "run", **options)
        assert not (tmp_path / "run").exists() and untrained_model[0].training
    finally:
        untrained_model[0].eval()


def test_a_task_that_is_named_twice_is_scored_once(go, whole, tmp_path):
    report = go(tmp_path / "run", tasks=["generate", "generate", "choose"])
    assert contents(tmp_path / "run") == contents(whole[0]) and report == whole[1]
