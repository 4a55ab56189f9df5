# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Whether a folder is a whole checkpoint: each thing that may be missing or wrong is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from transformers_wallaroo import tiny_path
from transformers_wallaroo.apps.hub_folder import LEFT_OUT, read_folder


@pytest.fixture
def folder(converted, tmp_path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "mine"))


@pytest.fixture
def sharded(folder, converted) -> Path:
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(converted).save_pretrained(folder, max_shard_size="400KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}))


def problem_of(folder: Path) -> str:
    [problem] = read_folder(folder).problems
    return problem


def test_a_whole_checkpoint_has_no_problem(folder, converted):
    found = read_folder(folder)
    assert found.problems == [] and not found.is_adapter
    assert {file.name for file in found.sent} == {path.name for path in converted.iterdir()}
    model = AutoModel.from_pretrained(converted)
    tied = model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0
    assert sum(found.parameters.values()) == sum(value.numel() for value in model.state_dict().values()) - tied


def test_shards_are_whole_too(sharded):
    assert read_folder(sharded).problems == []


def test_links_are_files(folder, tmp_path):
    """As the cache of the Hub has them."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert read_folder(linked).problems == []


@pytest.mark.parametrize("name", ["a.bin", "a.ckpt", "deep/er/a.pt", "a.PKL", "a.pth"])
def test_pickles_are_refused(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"1")
    assert problem_of(folder).startswith(f"{name} may hold pickled code")


def test_hidden_files_and_caches_stay_here(folder):
    for name in (".git/a.bin", "__pycache__/a.pyc", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"1")
    found = read_folder(folder)
    assert found.problems == [] and [file.fate for file in found.files if file.why] == [LEFT_OUT] * 3


@pytest.mark.parametrize(
    "name", ["generation_config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_parts_of_a_checkpoint_are_missed(folder, name):
    (folder / name).unlink()
    assert any(f"It has no {name}: " in problem for problem in read_folder(folder).problems)


def test_other_models_are_refused(folder):
    change_json(folder / "config.json", model_type="qwen2_5_vl")
    assert problem_of(folder) == "config.json is of the type 'qwen2_5_vl', not of a Wallaroo."


def test_broken_json_is_named(folder):
    (folder / "tokenizer.json").write_text("{")
    assert problem_of(folder) == "tokenizer.json is no JSON object."


# ------------------------------------------------------------------ weights


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "It has no weights: neither model.safetensors nor" in problem_of(folder)


def test_a_shard_that_is_not_there(sharded):
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    assert problem_of(sharded) == f"model.safetensors.index.json names {lost.name}, which is not there."


def test_a_file_that_was_cut_off(sharded):
    cut = sorted(sharded.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-10])
    assert problem_of(sharded).startswith(f"{cut.name} is no whole safetensors file")


def test_a_weight_that_the_index_says_is_there(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    weights = load_file(path)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    assert problem_of(sharded) == f"{path.name} lacks {name}, which model.safetensors.index.json says is there."


def test_a_shard_of_another_save(sharded):
    shutil.copy(sorted(sharded.glob("*.safetensors"))[0], sharded / "model-00009-of-00009.safetensors")
    assert problem_of(sharded).startswith("model-00009-of-00009.safetensors is in no index")


def test_weights_are_those_of_the_config(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    whole = dict(weights)
    del weights["generation_head.fc1.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    assert problem_of(folder) == "The weights are not all there: generation_head.fc1.weight is missing."
    whole["generation_head.fc1.bias"] = torch.zeros(3)
    save_file(whole, path, metadata={"format": "pt"})
    assert problem_of(folder) == "The weights do not fit config.json: generation_head.fc1.bias has another shape."


# ------------------------------------------------------------------ code


def test_code_that_code_needs(folder):
    (folder / "decoding_wallaroo.py").unlink()
    assert problem_of(folder) == "It has no decoding_wallaroo.py, which its code needs."


def test_a_checkpoint_without_code():
    assert problem_of(tiny_path()).startswith("It has no remote code, which `trust_remote_code=True` loads.")


def test_code_of_another_repository(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    foreign = {name: f"them/theirs--{value}" for name, value in auto_map.items()}
    change_json(folder / "config.json", auto_map=foreign)
    assert "Its code is that of another repository, them/theirs, which no revision" in problem_of(folder)


# ------------------------------------------------------------------ adapters


def test_an_adapter_without_weights(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    assert problem_of(tmp_path) == "It has no adapter_model.safetensors."
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345678")
    assert problem_of(tmp_path).startswith("adapter_model.safetensors is no whole safetensors file")
    save_file({"a": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    found = read_folder(tmp_path)
    assert found.is_adapter and found.problems == [] and found.shapes == {"a": [2]}
