# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed, at whatever point, ends as one that was not."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig
from transformers_wallaroo.training.trainer import WallarooTrainer

from small import PARTS_4, TASKS, losses_of

STEPS = 7


def config_of(folder, output, workers=0):
    """Two batches a step; logs and checkpoints come at different steps; dropped samples; a schedule that moves."""
    return StageConfig.from_dict(
        {
            "stage": "4",
            "init": str(folder),
            "output": str(output),
            "train": PARTS_4,
            "tasks": {"understand": 1, "generate": 2, "edit": 1},
            "data": {task: {"shapes": {"length": 9}} for task in TASKS},
            "steps": STEPS,
            "gradient_accumulation": 2,
            "learning_rate": 0.01,
            "scheduler": "cosine",
            "warmup_steps": 2,
            "limits": {"edit": 95},
            "bf16": False,
            "save_steps": 2,
            "logging_steps": 3,
            "workers": workers,
            "trainer": {"spike_factor": 0.7, "spike_window": 4},
        }
    )


def killed(config: StageConfig, method: str, call: int) -> None:
    """Runs the stage in a process of its own that dies by SIGKILL when it calls a trainer's method for the nth time."""

    def run():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        whole: Callable = getattr(WallarooTrainer, method)
        calls = []

        def dying(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **kwargs)

        setattr(WallarooTrainer, method, dying)
        run_stage(config)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def log_of(folder: Path) -> list[dict[str, float]]:
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return losses_of(state["log_history"]), state["stateful_callbacks"]["SpikeGuard"]


def steps_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


@pytest.fixture(scope="module")
def whole(small_folder, tmp_path_factory):
    """A run that was never stopped."""
    output = tmp_path_factory.mktemp("whole")
    run_stage(config_of(small_folder, output))
    return output


def assert_same_end(output, whole):
    """Every number of the log, and every byte of the weights."""
    (log, guard), (expected, expected_guard) = log_of(output), log_of(whole)
    assert [entry["step"] for entry in log] == [2, 3, 4, 6, 7]
    assert any(name.startswith("dropped/") for entry in log for name in entry)
    assert log == expected
    assert guard == expected_guard
    name = "final/model.safetensors"
    assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_run_without_a_stop_logs_what_the_others_are_compared_with(whole):
    log, guard = log_of(whole)
    assert {"loss", "grad_norm", "learning_rate", "loss/edit_image", "loss/understand_text"} <= set(log[0])
    assert len({entry["learning_rate"] for entry in log}) == 5
    assert log[-1]["skipped_steps"] == guard["attributes"]["skipped"] > 0
    assert len(guard["attributes"]["norms"]) == 4
    assert steps_of(whole) == {"checkpoint-6", "checkpoint-7"}


def test_killed_in_a_step_and_while_writing_a_checkpoint(small_folder, tmp_path, whole, caplog):
    config = config_of(small_folder, tmp_path)
    killed(config, "training_step", 10)  # the second batch of step 5
    assert steps_of(tmp_path) == {"checkpoint-2", "checkpoint-4"}
    killed(config, "_save_rng_state", 1)  # weights and optimizer of step 6 are written, the rest is not
    assert steps_of(tmp_path) == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    assert not (tmp_path / "checkpoint-6" / "trainer_state.json").exists()
    assert (tmp_path / "checkpoint-6" / "model.safetensors").exists()
    run_stage(config)
    assert "checkpoint-6 was not written to its end; it is removed" in caplog.text
    assert "Going on from" in caplog.text
    assert_same_end(tmp_path, whole)


def test_killed_with_workers(small_folder, tmp_path, whole):
    """They have prepared batches that are not yet learned; the new ones begin where learning stopped."""
    config = config_of(small_folder, tmp_path, workers=1)
    killed(config, "training_step", 7)
    assert steps_of(tmp_path) == {"checkpoint-2"}
    run_stage(config)
    assert_same_end(tmp_path, whole)


def test_killed_before_the_first_checkpoint(small_folder, tmp_path, whole):
    """And once more while the final checkpoint is written."""
    config = config_of(small_folder, tmp_path)
    killed(config, "training_step", 3)
    assert steps_of(tmp_path) == set()
    killed(config, "_save", 5)  # checkpoints 2, 4, 6 and 7, and then the final one
    assert not (tmp_path / "final").exists()
    (tmp_path / "final.partial").mkdir(exist_ok=True)
    (tmp_path / "final.partial" / "model.safetensors").write_text("half")
    run_stage(config)
    assert not (tmp_path / "final.partial").exists()
    assert_same_end(tmp_path, whole)


def test_run_may_be_started_anew(small_folder, tmp_path, whole):
    """`resume=False` takes no checkpoint and no final folder for granted."""
    config = config_of(small_folder, tmp_path)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "final" / "model.safetensors").write_text("old")
    run_stage(config, resume=False)
    assert_same_end(tmp_path, whole)
