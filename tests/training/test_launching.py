# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`accelerate launch` with the configs of `examples/accelerate`: two processes learn what one learns."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import AutoModel

from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig

from small import PARTS_4, losses_of

CONFIGS = Path(__file__).parents[2] / "examples" / "accelerate"
# Three samples a batch of a process; sorted by task, so that in each step the processes have different tasks. In an
# evaluation they have one sample each: of two processes, one has pictures to see and the other has none.
RECIPE = {
    "stage": "4",
    "train": PARTS_4,
    "tasks": {"understand": 1, "generate": 1, "edit": 1},
    "data": {task: {"shapes": {"bucket": [32, 64]}} for task in ("understand", "generate", "edit")},
    "evaluation": {
        "understand": {"shapes": {"bucket": [32, 64]}},
        "generate": {"shapes": {}},
        "edit": {"shapes": {}},
        "samples": 5,
    },
    "eval_steps": 3,
    "global_batch": 12,
    "steps": 3,
    "learning_rate": 0.05,
    "bf16": False,
    "logging_steps": 1,
    "trainer": {"optim": "sgd", "use_cpu": True, "per_device_eval_batch_size": 1},
}

# accelerate shards only where it is not told to use the CPU; see `launched_on_cpu.py`.
SHARDED = {**RECIPE["trainer"], "use_cpu": False}


OFFLINE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def recipe(small_folder, output, **changes):
    return {**RECIPE, "init": str(small_folder), "output": str(output), **changes}


def command(config, recipe, folder, *options):
    """What runs `wallaroo train` through `accelerate launch` on two processes."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    processes = ["--num_processes", "2", "--main_process_port", "0", *options]
    script = Path(__file__).with_name("launched_on_cpu.py")
    return [*launcher, *processes, str(script), "train", str(folder / "recipe.yaml")]


def launch(config, recipe, folder, *options, **environment):
    """Runs it, and returns what it says on stderr."""
    result = subprocess.run(
        command(config, recipe, folder, *options),
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-3000:]
    return result.stderr


def log_of(folder, step):
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return losses_of(state["log_history"])


@pytest.fixture(scope="module")
def alone(small_folder, tmp_path_factory):
    """The same steps by one process."""
    output = tmp_path_factory.mktemp("alone")
    run_stage(StageConfig.from_dict(recipe(small_folder, output)))
    return output


def assert_same_run(output, alone, *, tolerance, without=()):
    assert (output / "checkpoint-3" / "rng_state_1.pth").is_file()  # so there were two processes
    log, expected = log_of(output, 3), log_of(alone, 3)
    assert len(log) == len(expected) == 4
    for entry, expected_entry in zip(log, expected, strict=True):
        expected_entry = {name: value for name, value in expected_entry.items() if not name.startswith(without)}
        assert {name: entry[name] for name in expected_entry} == pytest.approx(expected_entry, rel=tolerance)
    weights = AutoModel.from_pretrained(output / "final").state_dict()
    checkpoint = AutoModel.from_pretrained(output / "checkpoint-3").state_dict()
    expected_weights = AutoModel.from_pretrained(alone / "final").state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=tolerance, atol=tolerance / 10)
        assert torch.equal(weight, checkpoint[name])


def test_processes_with_whole_models(small_folder, tmp_path, alone):
    launch("ddp_cpu", recipe(small_folder, tmp_path), tmp_path)
    assert_same_run(tmp_path, alone, tolerance=1e-5)


def test_fsdp2(small_folder, tmp_path, alone):
    launch("fsdp2", recipe(small_folder, tmp_path, trainer=SHARDED), tmp_path)
    assert_same_run(tmp_path, alone, tolerance=1e-5)


def test_killed_processes_go_on(small_folder, tmp_path, alone):
    """kill -9 of all, and the same command again."""
    values = recipe(small_folder, tmp_path, save_steps=1)
    killed = subprocess.Popen(
        command("ddp_cpu", values, tmp_path),
        env={**os.environ, **OFFLINE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoint-2").exists():  # so the first is whole, and this one perhaps
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    launcher = psutil.Process(killed.pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    killed.wait()
    assert not (tmp_path / "final").exists()
    assert "Going on from" in launch("ddp_cpu", values, tmp_path)
    assert_same_run(tmp_path, alone, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2"])
def test_all_processes_skip_a_step_that_is_nan_on_one(small_folder, tmp_path, config):
    trainer = SHARDED if config == "fsdp2" else RECIPE["trainer"]
    said = launch(config, recipe(small_folder, tmp_path, trainer=trainer), tmp_path, WALLAROO_TEST_FACTORS="2 1 nan")
    assert "Step 2 is skipped: its gradient norm is nan" in said
    entries = [entry for entry in log_of(tmp_path, 3) if "loss" in entry]
    assert [entry.get("skipped_steps") for entry in entries] == [None, 1, 1]
    assert all(value.isfinite().all() for value in AutoModel.from_pretrained(tmp_path / "final").state_dict().values())


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(small_folder, tmp_path, alone, stage):
    launch(f"zero{stage}", recipe(small_folder, tmp_path, trainer=SHARDED), tmp_path)
    assert_same_run(tmp_path, alone, tolerance=1e-5, without=("grad_norm/",))


@pytest.fixture(scope="module")
def with_bad_steps(small_folder, tmp_path_factory):
    """Six steps of two processes with whole models; one has no number for a loss in step 2, a spike in step 5."""
    output = tmp_path_factory.mktemp("bad_steps")
    launch("ddp_cpu", recipe(small_folder, output, **ADAM), output, WALLAROO_TEST_FACTORS=BAD_STEPS)
    return output


BAD_STEPS = "2 1 nan, 5 0 1e5"
ADAM = {
    "steps": 6,
    "save_steps": 1,
    "eval_steps": None,
    "evaluation": {},
    "learning_rate": 0.001,
    "scheduler": "linear",
    "weight_decay": 0.1,
    "trainer": {**RECIPE["trainer"], "optim": "adamw_torch", "spike_window": 4, "save_total_limit": 6},
}


def deepspeed_state(folder, step, rank):
    """Weights and the optimizer's state, as DeepSpeed keeps them of a process."""
    files = sorted((folder / f"checkpoint-{step}" / f"global_step{step}").glob(f"*rank_{rank}_*optim_states.pt"))
    assert len(files) == 1
    state = torch.load(files[0], weights_only=False)["optimizer_state_dict"]
    weights = state.get("fp32_flat_groups", state.get("single_partition_of_fp32_groups"))
    optimizer = state.get("optimizer_state_dict", state.get("base_optimizer_state"))["state"]
    assert weights and optimizer
    return [*weights, *(values[name] for values in optimizer.values() for name in ("exp_avg", "exp_avg_sq", "step"))]


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_skips_bad_steps(small_folder, tmp_path, with_bad_steps, stage):
    """Weights and moments stay as they were, to the bit; the run is that of processes with whole models."""
    trainer = {**ADAM["trainer"], "use_cpu": False}
    values = recipe(small_folder, tmp_path, **{**ADAM, "trainer": trainer})
    said = launch(f"zero{stage}", values, tmp_path, WALLAROO_TEST_FACTORS=BAD_STEPS)
    assert "Step 2 is skipped: its gradient norm is " in said
    assert "Step 5 is skipped: its gradient norm " in said
    assert "times the median" in said
    for rank in range(2):
        states = [deepspeed_state(tmp_path, step, rank) for step in range(1, 7)]
        moved = [
            not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            for before, after in itertools.pairwise(states)
        ]
        assert moved == [False, True, True, False, True]
    log, expected = log_of(tmp_path, 6), log_of(with_bad_steps, 6)
    for name in ("skipped_steps", "learning_rate"):
        assert [entry.get(name) for entry in log] == [entry.get(name) for entry in expected]
    weights = AutoModel.from_pretrained(tmp_path / "final").state_dict()
    for name, weight in AutoModel.from_pretrained(with_bad_steps / "final").state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_ones_that_accelerate_reads(config):
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(config))
    assert loaded.num_processes >= 2
    assert loaded.mixed_precision == "no"
