# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run and write what they promise; no time is asserted."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# Tasks of one sample each, a small language model: seconds.
SMALL = ["--batches=1", "--rounds=2", "--scan=6", "--threads=1", "--precision=fp32"]


@pytest.fixture(scope="module")
def training():
    spec = importlib.util.spec_from_file_location("training_benchmark", BENCHMARKS / "training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_benchmark_writes_its_figures(training, tmp_path, capsys):
    path = tmp_path / "figures" / "training.json"
    tasks = "tasks={generate: 1, edit: 1, understand: 1}"
    # One row of all: the recipe's rows are too long for three samples.
    training.main([*SMALL, "--mix=stage_4", f"--json={path}", tasks, "pack_length=0"])
    figures = json.loads(path.read_text())
    assert figures["ratios"]["stage_4"] > 0 and figures["ratios_from_pixels"]["stage_4"] > 0
    assert figures["settings"]["precision"] == "fp32" and figures["versions"]["torch"]
    mix = figures["mixes"]["stage_4"]
    assert mix["tasks"] == {"generate": 1, "edit": 1, "understand": 1}
    # The released limits 1632, 2624 and 1504, to scale.
    assert mix["maxima"]["edit"] / mix["maxima"]["generate"] == pytest.approx(2624 / 1632, abs=0.02)
    variants = mix["variants"]
    assert set(variants) == {"straightforward", "pixels", "codes"}
    for row in variants.values():
        assert row["loss"] == pytest.approx(variants["straightforward"]["loss"], abs=1e-3)
        assert len(row["rounds"]) == 2 and row["samples_per_second"] > 0
    assert variants["straightforward"]["positions_per_sample"] == pytest.approx(
        sum(mix["maxima"].values()) / 3, abs=0.1
    )
    assert variants["codes"]["positions_per_sample"] < variants["straightforward"]["positions_per_sample"]
    assert 0 < variants["codes"]["peak_step_mb"] < variants["straightforward"]["peak_step_mb"]
    assert "stage_4: the same loss" in capsys.readouterr().out


def test_steps_of_different_losses_are_not_compared(training, monkeypatch):
    right = training.straightforward_loss
    monkeypatch.setattr(training, "straightforward_loss", lambda model, batches: right(model, batches) + 0.01)
    with pytest.raises(RuntimeError, match="The steps compute different losses, so their speeds cannot be compared"):
        training.main([*SMALL, "--mix=stage_3b", "tasks={generate: 1, understand: 1}"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("limit", {"generate": 512, "understand": 40}), ("longest", {"generate": 3, "understand": 4})],
)
def test_the_maximum_is_what_was_asked_for(training, kind, expected):
    class Mixture(list):
        sources = {"generate": None, "understand": None}

    class Collator:
        class processor:
            max_length = 512

        @staticmethod
        def encode(sample, _):
            return type("Encoded", (), {"ids": range(sample["length"])})

    samples = Mixture({"task": task, "length": length} for task, length in [("generate", 3), ("understand", 4)])
    assert training.find_maxima("stage_3b", kind, samples, Collator, {"understand": 40}) == expected
