# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run and write what they promise; no time is asserted."""

import importlib.util
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import JanusForConditionalGeneration

from transformers_wallaroo import WallarooVQConfig, WallarooVQModel

# In transformers 5.17 Janus cannot generate: it leaves out an argument of transformers' own.
with_janus = pytest.mark.skipif(
    "prefill_chunk_size" not in inspect.getsource(JanusForConditionalGeneration.generate),
    reason="Janus cannot generate in this version of transformers",
)
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# Tasks of one sample each, a small language model: seconds.
SMALL = ["--batches=1", "--rounds=2", "--scan=6", "--threads=1", "--precision=fp32"]


def load(name):
    """A script of the folder, with its siblings importable."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def training():
    return load("training")


def test_the_training_benchmark_writes_its_figures(training, tmp_path, capsys):
    path = tmp_path / "figures" / "training.json"
    tasks = "tasks={generate: 1, edit: 1, understand: 1}"
    # None of these is longer than the released limits to scale.
    kinds = {"edit": "remove, bucket: [32, 32]", "generate": "color_attribution", "understand": "color"}
    data = [f"{task}: {{shapes: {{seed: 1, kind: {kind}}}}}" for task, kind in kinds.items()]
    # One row of all: the recipe's rows are too long for three samples.
    training.main([*SMALL, "--mix=stage_4", f"--json={path}", tasks, f"data={{{', '.join(data)}}}", "pack_length=0"])
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


SHORT = ["--vocabulary=1024", "--layers=1", "--rounds=1", "--device=cpu"]


@with_janus
def test_the_decoding_benchmark_writes_its_figures(tmp_path, capsys):
    path = tmp_path / "decode.json"
    load("decode").main([*SHORT, "--side=3", "--precision=fp32", "--without=compiled", f"--json={path}"])
    figures = json.loads(path.read_text())
    names = {f"{name}_over_{peer}" for name in ("plain", "eager", "fused") for peer in ("janus", "released")}
    assert names <= set(figures["ratios"]["fp32"])
    assert all(ratio > 0 for ratio in figures["ratios"]["fp32"].values())
    assert 0 < figures["floor_share"]["fp32"]["eager"] < 1
    forwards = figures["figures"]["fp32"]["forwards"]
    assert forwards["plain"] == forwards["eager"] == forwards["fused"] == 9 > forwards["speculative"] > 1
    assert "over janus" in capsys.readouterr().out


def test_the_released_loop_draws_what_ours_draws():
    """Its costs are told anew, not its codes: with the same logits and seed the codes are the same."""
    decode = load("decode")
    dimensions = {**decode.DIMENSIONS, "num_hidden_layers": 2, "vocab_size": 1024}
    model = decode.make_model(dimensions, 256, torch.float32)
    inputs = decode.make_inputs(model, 1, (3, 4), 9)
    theirs = decode.draw_as_released(model, inputs, 3.0)
    ours = model.generate(**inputs, seed=0, guidance_scale=3.0, top_k=256, return_dict_in_generate=True).codes[0]
    assert torch.equal(theirs[0], ours.flatten())


def test_the_benchmarks_of_batches_and_memory(tmp_path):
    load("batch").main([*SHORT, "--side=2", "--images", "1", "2", "--precision=fp32", f"--json={tmp_path / 'b.json'}"])
    figures = json.loads((tmp_path / "b.json").read_text())["figures"]["fp32"]
    assert figures["over_the_first"]["1"] == 1 and figures["images_per_second"]["2"] > 0
    options = [option for option in SHORT if not option.startswith("--rounds")]
    options = [*options, "--sides", "2", "--images", "1", "2", "--strip-rows=8"]
    load("memory").main([*options, f"--json={tmp_path / 'm.json'}"])
    figures = json.loads((tmp_path / "m.json").read_text())
    [strips], [one, two] = figures["vq_peaks_mb"], figures["peaks_mb"]
    assert 0 < strips["strips"] <= strips["whole"]
    assert two["kv_mb"] > one["kv_mb"] and two["static"] > one["static"] > 0 and one["plain"] > 0


def test_strips_take_the_memory_of_two_maps():
    """Of a VQ tokenizer whose weights are small beside a picture."""
    torch.manual_seed(0)
    config = WallarooVQConfig(
        base_channels=32, channel_multiplier=[1, 1, 1, 1, 1], num_embeddings=64, latent_channels=32, num_res_blocks=1
    )
    model = WallarooVQModel(config).eval()
    codes = torch.zeros(1, 20, 20, dtype=torch.long)
    largest = 32 * 320 * 320 * 4
    whole, strips = (
        load("common").peak_bytes(lambda rows=rows: model.decode(codes, strip_rows=rows), torch.device("cpu"))
        for rows in (None, 8)
    )
    assert strips < 2.4 * largest < 2.8 * largest < whole


@with_janus
def test_the_benchmarks_of_overhead_and_speculation(tmp_path):
    without = ["--without=compiled", "--without=janus compiled"]
    load("overhead").main(
        ["--side=2", "--layers=2", "--rounds=1", "--device=cpu", *without, f"--json={tmp_path / 'o.json'}"]
    )
    assert set(json.loads((tmp_path / "o.json").read_text())["shares"]) == {"eager_over_janus"}
    options = ["--images=2", "--windows", "4", "--rounds=1", "--device=cpu", f"--json={tmp_path / 's.json'}"]
    load("speculative").main(options)
    figures = json.loads((tmp_path / "s.json").read_text())["figures"]
    assert set(figures) == {f"{task}, {how}" for task in ("generate", "edit") for how in ("greedy", "sampled")}
    assert all(rows["plain"]["forwards"] == 16 > rows["window 4"]["forwards"] for rows in figures.values())


def test_the_load_on_the_server(tmp_path, capsys, monkeypatch):
    for name in ("fastapi", "openai"):
        pytest.importorskip(name, reason="the server and its client")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--clients=3", "--seconds=1", "--batches=2", "--kinds", "draw", "edit", "ask", f"--folder={tmp_path}"]
    load("serve_load").main([*options, f"--json={tmp_path / 'load.json'}"])
    figures = json.loads((tmp_path / "load.json").read_text())["figures"]["2"]
    assert sum(figures["answered"].values()) >= 3 and figures["unclean"] == [] and figures["memory_mb"][0] > 0
    assert "unclean 0" in capsys.readouterr().out


def test_what_the_load_calls_growth():
    pytest.importorskip("openai", reason="the server's client")
    assert load("serve_load").growth([9, 9, 100, 100, 103, 103]) == 3


def test_the_benchmark_of_7b_says_what_it_needs():
    gpu = load("gpu_7b")
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="There is no CUDA device here"):
            gpu.main([])


def test_the_data_benchmark_writes_its_figures(tmp_path, capsys):
    path = tmp_path / "data.json"
    data = load("data")
    data.main(["--samples=4", "--side=64", "--workers", "0", "1", "--batch-size=2", "--steps=1", f"--json={path}"])
    figures = json.loads(path.read_text())
    assert set(figures["loader_samples_per_second"]) == {"0", "1"}
    assert all(speed > 0 for speed in figures["loader_samples_per_second"].values())
    assert figures["trainer_samples_per_second"] > 0 and figures["bytes_per_sample"] > 1000
    assert "loader, 1 workers" in capsys.readouterr().out
