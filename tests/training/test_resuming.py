# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed, at whatever point, ends as one that was not."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from transformers_wallaroo.training import run
from transformers_wallaroo.training.resuming import check_recipe, keep_recipe, last_whole_checkpoint, recipe_changes
from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig
from transformers_wallaroo.training.trainer import WallarooTrainer

from killing import killed_at
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


def killed(config: StageConfig, method: str, call: int, **options: bool) -> None:
    """Runs the stage in a process of its own that dies by SIGKILL when it calls a trainer's method for the nth time."""

    def run():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        run_stage(config, **options)

    killed_at(WallarooTrainer, method, call, run)


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
    """`resume=False` takes no checkpoint and no final folder for granted; a kill does not bring the old ones back."""
    config = config_of(small_folder, tmp_path)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "final" / "model.safetensors").write_text("old")
    (tmp_path / "final.partial").mkdir()
    killed(config, "training_step", 6, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "recipe.yaml"]
    run_stage(config)
    assert_same_end(tmp_path, whole)


def test_what_a_run_starts_from_is_not_removed(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "final")
    config = config_of(tmp_path / "final", tmp_path)
    with pytest.raises(ValueError, match=r"`init` is '.*final', which is of the run in .* that would be removed"):
        run_stage(config, resume=False)
    assert (tmp_path / "final" / "model.safetensors").is_file()


def test_only_whole_checkpoints_are_gone_on_from(tmp_path, caplog):
    assert last_whole_checkpoint(tmp_path / "nowhere") is None
    for step, state in ((2, {"global_step": 2}), (10, None), (12, "{")):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
        if state is not None:
            (folder / "trainer_state.json").write_text(state if isinstance(state, str) else json.dumps(state))
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert caplog.text.count("was not written to its end; it is removed") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


# ---------------------------------------------------------------------- the recipe of a run


@pytest.fixture
def begun(tmp_path):
    """Recipe and folder of a run that has a checkpoint."""
    config = config_of("init", tmp_path / "run")
    keep_recipe(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-2").mkdir()
    (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").write_text("{}")
    return config, tmp_path / "run"


def test_recipe_is_kept_whole(begun):
    config, output = begun
    kept = StageConfig.load(output / "recipe.yaml")
    assert kept == config
    assert "weight_decay: 0.0" in (output / "recipe.yaml").read_text()
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seed": 3}, "`seed` was 0 and is 3"),
        (
            {"learning_rate": 0.1, "train": ["visual"]},
            r"`train` was \[.*\] and is \['visual'\]; `learning_rate` was 0.01",
        ),
        (
            {"data": {task: {"shapes": {"length": 9 + (task == "edit")}} for task in TASKS}},
            "one: `data.edit.shapes.length` was 9 and is 10. Give",
        ),
        ({"limits": {}}, "`limits.edit` was 95 and is None"),
        ({"trainer": {"spike_factor": 0.5, "spike_window": 4}}, "`trainer.spike_factor` was 0.7 and is 0.5"),
    ],
)
def test_run_does_not_go_on_with_another_recipe(begun, changes, complaint, monkeypatch):
    config, _ = begun
    monkeypatch.setattr(run, "build_trainer", lambda _config: pytest.fail("it goes on"))
    with pytest.raises(
        ValueError, match=f"was begun with another recipe.*{complaint}.*`--no-resume`.*another `output`"
    ):
        run_stage(dataclasses.replace(config, **changes))


def test_run_goes_on_with_what_changes_nothing_that_is_learned(begun):
    config, output = begun
    trainer = {**config.trainer, "report_to": "tensorboard", "dataloader_prefetch_factor": 4}
    harmless = dataclasses.replace(
        config, save_steps=5, workers=3, trainer=trainer, attention="eager", evaluation={"edit": {}}, eval_steps=1
    )
    check_recipe(harmless, output)
    path = output / "recipe.yaml"
    path.write_text(path.read_text().replace("mask_ratio: 0.6\n", "") + "of_another_version: 3\n")
    check_recipe(config, output)
    path.unlink()  # as of a run of an older version
    check_recipe(dataclasses.replace(config, seed=3), output)


def test_recipe_matters_where_there_is_something_to_go_on_from_alone(begun):
    config, output = begun
    other = dataclasses.replace(config, seed=3)
    (output / "checkpoint-2" / "trainer_state.json").unlink()
    check_recipe(other, output)
    keep_recipe(other, output)
    assert StageConfig.load(output / "recipe.yaml").seed == 3


def test_recipe_that_a_user_has_put_there_stays(tmp_path, caplog):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 8\n")
    config = config_of("init", tmp_path)
    keep_recipe(config, tmp_path)
    assert path.read_text() == "seed: 8\n"
    assert "recipe.yaml is not of this run, so that its own recipe is not kept there" in caplog.text
    assert recipe_changes(config, tmp_path) == []
