# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo push`: what it sends, what it shows, and one sentence for what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.apps import hub

from fake_hub import FakeHub, hub_of_this_process

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(cli.app, ["push", *(str(argument) for argument in arguments)])


def refused(*arguments) -> str:
    """The sentence that the command ends in."""
    result = invoke(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.stdout
    [line] = [line for line in result.stderr.strip().splitlines() if not line.startswith("Note: ")]
    assert line.startswith("wallaroo: ")
    return line


@pytest.fixture
def folder(converted, tmp_path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "mine"))


def test_help_says_what_there_is_with_examples():
    text = invoke("--help").stdout
    for word in ("FOLDER", "OWNER/NAME", "--private", "--dry-run", "--update", "--revision", "--card", "--base-model"):
        assert word in text
    assert "wallaroo push runs/mine/final me/mine" in text
    assert "wallaroo push runs/mine/final" in runner.invoke(cli.app, ["--help"]).stdout


def test_it_pushes_and_says_where(folder, tmp_path):
    """By the environment alone, as people set it, in a process of its own."""
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"overall": {"generate": 0.5}, "kinds": {}, "settings": {"checkpoint": "x"}}))
    command = [sys.executable, "-m", "transformers_wallaroo.cli", "push", str(folder), "me/mine", "--private"]
    options = ["--license", "mit", "--revision", "next", "--message", "First", "--scores", str(scores)]
    with FakeHub() as server:
        environment = {**os.environ, **server.environment(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        result = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        repository = server.repositories["me/mine"]
        assert result.stdout == f"{server.url}/me/mine\n"
        assert repository.private and repository.commits[1][1] == "First"
        assert f"name revision {repository.commits[1][0]}." in result.stderr and "measured on x." in result.stderr
        card = repository.files("next")["README.md"].decode()
        assert "license: mit" in card and "value: 0.5" in card


def test_without_a_token_it_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    line = refused(folder, "me/mine", "--license", "mit")
    assert line == "wallaroo: There is no token for the Hub. Log in by `hf auth login`, or set HF_TOKEN."


def test_a_dry_run_shows_all_and_sends_nothing(folder, tmp_path):
    with hub_of_this_process(tmp_path) as server:
        result = invoke(folder, "me/mine", "--dry-run", "--license", "mit")
        assert result.exit_code == 0, result.stderr
        assert server.requests == []
    for path in folder.iterdir():
        assert path.name in result.stdout
    assert "license: mit" in result.stdout and "trust_remote_code=True" in result.stdout


def test_json(folder, tmp_path):
    with hub_of_this_process(tmp_path) as server:
        result = invoke(folder, "me/mine", "--license", "mit", "--json")
        assert result.exit_code == 0, result.stderr
        commit = server.repositories["me/mine"].commits[1][0]
        assert json.loads(result.stdout) == {"repo_id": "me/mine", "revision": commit, "url": f"{server.url}/me/mine"}
    plan = json.loads(invoke(folder, "me/mine", "--license", "mit", "--json", "--dry-run").stdout)
    assert {"name": "config.json", "fate": "sent"}.items() <= next(
        file.items() for file in plan["files"] if file["name"] == "config.json"
    )
    assert "license: mit" in plan["card"] and plan["problems"] == [] and plan["repo_id"] == "me/mine"
    (folder / "old.ckpt").write_bytes(b"1")
    result = invoke(folder, "me/mine", "--json", "--dry-run")
    plan = json.loads(result.stdout)
    assert result.exit_code == 2 and plan["card"] is None and "old.ckpt may hold pickled" in plan["problems"][0]


def test_a_dry_run_tells_everything_that_is_wrong(folder):
    (folder / "training_args.bin").write_bytes(b"1")
    (folder / "generation_config.json").unlink()
    result = invoke(folder, "me/mine", "--dry-run")
    assert result.exit_code == 2
    assert "training_args.bin" in result.stdout and "refused (may hold pickled code)" in result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith("wallaroo: ") for line in lines)
    assert "only safetensors are sent" in lines[0] and "generation_config.json" in lines[1] and "licence" in lines[2]


def test_bad_input_ends_in_a_sentence(folder, tmp_path):
    assert "there is no folder /nowhere" in refused("/nowhere", "me/mine")
    (tmp_path / "empty").mkdir()
    assert "has no config.json and no adapter_config.json" in refused(tmp_path / "empty", "me/mine")
    assert "`repo_id` must be OWNER/NAME" in refused(folder, "mine")
    assert "The card has no licence" in refused(folder, "me/mine")
    assert "--scores" not in refused(folder, "me/mine", "--license", "mit", "--scores", "none.json")
    (folder / "old.ckpt").write_bytes(b"1")
    assert "old.ckpt may hold pickled code" in refused(folder, "me/mine", "--license", "mit")
