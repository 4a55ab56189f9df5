# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The `wallaroo` command: help, a run of each command, and one sentence for what a user does wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import transformers_wallaroo
from transformers_wallaroo import cli, embedded
from transformers_wallaroo.evaluation import shapes
from transformers_wallaroo.training import run, vq

from untrained import save_untrained

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "examples" / "recipes" / "tiny"
STAGE, VQ = RECIPES / "stage-2.yaml", RECIPES / "vq.yaml"
runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def refused(*arguments) -> str:
    """The sentence that a command ends in."""
    result = invoke(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("wallaroo: ")
    return line


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("untrained") / "wallaroo")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """An untrained model does not stop of itself."""
    monkeypatch.setattr(shapes, "MAX_NEW_TOKENS", 6)


# ------------------------------------------------------------------ help


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["eval", "train", "train-vq", "--version", "wallaroo eval shapes"]),
        (("eval",), ["shapes", "wallaroo eval shapes --json"]),
        (
            ("eval", "shapes"),
            ["--checkpoint", "--samples", "--seed", "--json", "--batch-size", "wallaroo eval shapes --task generate"],
        ),
        (
            ("train",),
            ["RECIPE", "KEY=VALUE", "--no-resume", "wallaroo train examples/recipes/tiny/stage-2.yaml steps=100"],
        ),
        (
            ("encode",),
            ["RECIPE", "KEY=VALUE", "--output", "--samples", "--batch-size", "wallaroo encode examples/recipes/tiny"],
        ),
        (("train-vq",), ["RECIPE", "KEY=VALUE", "--no-resume", "wallaroo train-vq examples/recipes/tiny/vq.yaml"]),
    ],
)
def test_help_says_what_there_is_with_examples(command, words):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    for word in words:
        assert word in result.stdout


def test_recipes_of_the_help_are_there():
    for command in ((), ("train",), ("train-vq",), ("encode",)):
        named = re.findall(r"examples/recipes/[\w/-]+\.yaml", invoke(*command, "--help").stdout)
        assert named and all((ROOT / recipe).is_file() for recipe in named)


def test_checkpoints_of_the_help_are_where_make_tiny_puts_them():
    named = re.findall(r"runs/tiny/[\w/-]+", invoke("eval", "shapes", "--help").stdout)
    assert named and all(checkpoint == "runs/tiny/stage-4-auto/final" for checkpoint in named)


def test_version():
    assert invoke("--version").stdout == f"transformers-wallaroo {transformers_wallaroo.__version__}\n"


def test_shells_complete_commands():
    environment = {"_WALLAROO_COMPLETE": "complete_bash", "COMP_WORDS": "wallaroo gen", "COMP_CWORD": "1"}
    assert runner.invoke(cli.app, prog_name="wallaroo", env=environment).stdout.split() == ["generate"]


def test_eval_takes_the_checkpoint_of_the_environment():
    result = runner.invoke(cli.app, ["eval", "shapes"], env={"WALLAROO_CHECKPOINT": "/nowhere"})
    assert result.exit_code == 2 and "there is no folder /nowhere" in result.stderr


def test_an_unknown_command_is_a_usage_error():
    result = invoke("evaluate")
    assert result.exit_code == 2 and "evaluate" in result.stderr


# ------------------------------------------------------------------ eval


def test_eval_shapes_prints_tables_and_writes_json(untrained, tmp_path):
    out = tmp_path / "new" / "scores.json"
    result = invoke(
        "eval", "shapes", "--checkpoint", untrained, "--samples", 18, "--seed", 4, "--json", out, "--guidance-scale", 1
    )
    assert result.exit_code == 0, result.stderr
    for title in ("Understanding:", "Generation:", "Editing:", "| single_object ", "| adjust ", "| 64x48 "):
        assert title in result.stdout
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["overall"]) == {"understand", "generate", "edit"}
    assert all(0 <= value <= 1 for value in report["overall"].values())
    settings = report["settings"]
    assert (settings["samples"], settings["held_out"], settings["seed"]) == (18, 9, 4)
    assert "Chinese less English, on the same scenes: understanding " in result.stdout
    assert set(report["language_difference"]) == set(report["overall"])
    assert "If it is of stage 3b, it has not learned to edit" in result.stderr
    assert settings["checkpoint"] == str(untrained) and settings["generation"]["guidance_scale"] == 1


def test_eval_takes_the_embedded_checkpoint_and_says_so(untrained, monkeypatch):
    monkeypatch.setattr(embedded, "TINY", untrained)
    result = invoke("eval", "shapes", "--samples", 12, "--task", "understand")
    assert result.exit_code == 0, result.stderr
    assert "wallaroo-tiny" in result.stderr and str(untrained) in result.stderr
    assert "Understanding:" in result.stdout and "Generation" not in result.stdout
    assert "tokenized" not in result.stdout, "no picture was made"
    assert "stage 3b" not in result.stderr


def test_bad_input_of_eval_ends_in_a_sentence(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "TINY", tmp_path / "tiny")
    assert "has no embedded checkpoint" in refused("eval", "shapes")
    assert "there is no folder /nowhere" in refused("eval", "shapes", "--checkpoint", "/nowhere")
    assert "`--json` must be a file" in refused("eval", "shapes", "--checkpoint", untrained, "--json", tmp_path)
    assert "`samples` must be at least 18" in refused("eval", "shapes", "--checkpoint", untrained, "--samples", 0)
    assert "`tasks` must be some of" in refused("eval", "shapes", "--checkpoint", untrained, "--task", "draw")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert "must be a Wallaroo, but" in refused("eval", "shapes", "--checkpoint", tmp_path)
    for missing in ("runs/tiny/4/final", "./final", "~/final"):
        assert f"there is no folder {missing}" in refused("eval", "shapes", "--checkpoint", missing)


def test_an_adapter_is_no_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    line = refused("eval", "shapes", "--checkpoint", tmp_path)
    assert f"{tmp_path} holds a LoRA adapter" in line and "merge_and_unload()" in line


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(untrained, device):
    line = refused("eval", "shapes", "--checkpoint", untrained, "--device", device)
    assert "`device` must be one that this torch can use, such as 'cpu'" in line and f"but got '{device}'" in line


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("WALLAROO_TRACEBACK", "1")
    result = invoke("eval", "shapes", "--checkpoint", "/nowhere")
    assert isinstance(result.exception, ValueError)


# ------------------------------------------------------------------ train


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """What the commands would have trained."""
    calls = []

    def record(config, *, resume):
        calls.append((config, resume))
        return tmp_path / "final"

    monkeypatch.setattr(run, "run_stage", record)
    monkeypatch.setattr(vq, "train_vq", record)
    return calls


def test_train_reads_recipe_and_overrides(runs, tmp_path):
    result = invoke("train", STAGE, "steps=3", "trainer.report_to=tensorboard", "--no-resume")
    assert result.exit_code == 0, result.stderr
    [(config, resume)] = runs
    assert (config.steps, config.trainer["report_to"], resume) == (3, "tensorboard", False)
    assert config.stage == "2" and str(tmp_path / "final") in result.stderr
    invoke("train", STAGE)
    assert runs[-1][1] is True


def test_train_vq_reads_recipe_and_overrides(runs, tmp_path):
    result = invoke("train-vq", VQ, "steps=3", "vq_config.embed_dim=4", f"output_dir={tmp_path}", "--no-resume")
    assert result.exit_code == 0, result.stderr
    [(config, resume)] = runs
    assert (config.steps, config.vq_config["embed_dim"], config.output_dir, resume) == (3, 4, str(tmp_path), False)
    assert config.vq_config["num_embeddings"] == yaml.safe_load(VQ.read_text())["vq_config"]["num_embeddings"]
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize(("command", "recipe"), [("train", STAGE), ("train-vq", VQ)])
def test_bad_recipes_end_in_a_sentence(runs, command, recipe, tmp_path):
    assert "stepz" in (line := refused(command, recipe, "stepz=3")) and "steps" in line.replace("stepz", "")
    assert "must be key=value, but got 'fast'" in refused(command, recipe, "fast")
    (tmp_path / "open.yaml").write_text("a: [1")
    assert "open.yaml is no YAML" in refused(command, tmp_path / "open.yaml")
    assert "There is no recipe" in refused(command, tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    assert "must be a mapping of keys to values, but is list" in refused(command, tmp_path / "list.yaml")
    assert not runs


@pytest.mark.parametrize(("command", "recipe"), [("train", STAGE), ("train-vq", VQ)])
def test_an_interrupted_training_says_how_to_go_on(monkeypatch, command, recipe):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_stage", interrupt)
    monkeypatch.setattr(vq, "train_vq", interrupt)
    result = invoke(command, recipe)
    assert result.exit_code == 130
    assert "The same command goes on from the last checkpoint in runs/tiny/" in result.stderr


def test_what_a_worker_of_a_data_loader_says_is_one_sentence(monkeypatch):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            try:
                raise KeyError("ValueError: not this")
            except KeyError as error:
                raise ValueError("`edits.jsonl` has no picture\nin line 3: a ValueError: b") from error

    def load(*_, **__):
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))

    monkeypatch.setattr(run, "run_stage", load)
    assert refused("train", STAGE) == "wallaroo: `edits.jsonl` has no picture in line 3: a ValueError: b"


def test_encode_makes_codes_and_prints_the_lines_for_the_recipe(untrained, tmp_path):
    recipe = ("encode", RECIPES / "stage-4.yaml", f"init={untrained}", "--output", tmp_path, "--samples", 3)
    result = invoke(*recipe, "--batch-size", 2)
    assert result.exit_code == 0, result.stderr
    data = yaml.safe_load(result.stdout)["data"]
    for task in ("generate", "edit"):
        assert data[task] == {"encoded": {"path": str(tmp_path / task)}}
        assert json.loads((tmp_path / task / "encoding.json").read_text())["samples"] == 3
    assert data["understand"] == yaml.safe_load((RECIPES / "stage-4.yaml").read_text())["data"]["understand"]
    assert "no images to encode" in refused(
        "encode",
        RECIPES / "stage-4.yaml",
        f"init={untrained}",
        "tasks={understand: 1}",
        "data={understand: {shapes: {}}}",
        "evaluation={}",
        "eval_steps=null",
        "previews=0",
    )


def test_a_missing_extra_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError("training needs accelerate")

    monkeypatch.setattr(run, "run_stage", missing)
    assert "training needs accelerate" in refused("train", STAGE)


# ------------------------------------------------------------------ the package


def test_the_embedded_checkpoint(untrained, monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "TINY", untrained)
    assert transformers_wallaroo.tiny_path() == untrained
    monkeypatch.setattr(embedded, "TINY", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json.* `make tiny` .*package_tiny\.py runs/"):
        transformers_wallaroo.tiny_path()


def test_the_trainer_comes_when_it_is_asked_for():
    """The package and its command work without the extra `train`; its names are imported late."""
    script = """
import sys
for name in ("accelerate", "datasets", "peft"):
    sys.modules[name] = None
import transformers_wallaroo
assert "transformers_wallaroo.training.trainer" not in sys.modules
from transformers_wallaroo import StageConfig, WallarooTrainer
assert WallarooTrainer.__module__ == "transformers_wallaroo.training.trainer"
try:
    transformers_wallaroo.nothing
except AttributeError as error:
    print(error)
import transformers_wallaroo.cli
transformers_wallaroo.cli.app(["--version"])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "has no attribute 'nothing'" in result.stdout and "transformers-wallaroo 0" in result.stdout
