"""What a checkpoint is, told without reading its weights."""

import json

import pytest
import torch

from transformers_wallaroo import WallarooConfig, embedded, tiny_path
from transformers_wallaroo.apps import summary as summary_module
from transformers_wallaroo.apps.parts import PARTS, count_parameters
from transformers_wallaroo.apps.summary import summarize
from transformers_wallaroo.configuration_wallaroo import MLP_NAMES


def test_facts_are_those_of_the_model(engine, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    facts = summarize()
    model = engine.model
    assert facts["parameters"]["total"] == model.num_parameters()
    for name in MLP_NAMES:
        part = getattr(model, name, None) or getattr(model.model, name)
        assert facts["parameters"][name.replace("_", " ")] == sum(p.numel() for p in part.parameters())
    assert sum(facts["parameters"].values()) == 2 * facts["parameters"]["total"]
    assert facts["hash"] == embedded.checkpoint_hash(tiny_path(), quick=True) and facts["checkpoint"] == "wallaroo-tiny"
    assert facts["options"]["row_ends"] is True and facts["options"]["stage"] == "3b or 4"
    assert "64x32" in facts["sizes"] and facts["image_defaults"]["guidance_scale"] == 1.5
    assert sum(facts["files"].values()) == (tiny_path() / "model.safetensors").stat().st_size
    json.dumps(facts)


def test_memory_is_that_of_the_tensors(engine):
    needs = summarize()["memory"]
    weights = {id(parameter): parameter.nbytes for parameter in engine.model.parameters()}
    assert needs["float32"]["weights"] == sum(weights.values())
    tables = sum(table.nbytes for _, table in engine.model.model._code_tables.values())
    assert needs["float32"]["code_tables"] == tables
    assert needs["bfloat16"]["weights"] < needs["float32"]["weights"]
    assert needs["bfloat16"]["a_picture"] * 2 == needs["float32"]["a_picture"]


def test_parts_of_the_released_size_are_counted():
    counts = summary_module._parameters(WallarooConfig())
    assert set(counts) == {part for beginning, part in PARTS if beginning} | {"total"}
    # Qwen2.5-VL-7B has 8.29 G parameters.
    assert 8.2e9 < sum(counts[part] for part in ("vision tower", "language model", "text head")) < 8.4e9


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no folder /nowhere"):
        summarize("/nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match=r"must be a Wallaroo, but .* is of the type 'qwen2'.*`wallaroo init`"):
        summarize(tmp_path)


def test_the_device_is_the_one_at_hand():
    device = summarize()["device"]
    assert device["type"] == ("cuda" if torch.cuda.is_available() else "cpu") and device["memory"] > 0


def test_parts_are_told_by_the_names_of_weights():
    shapes = {
        "editing_head.0.weight": (2, 3),
        "model.visual.a": (4,),
        "model.visual.b": (1, 1),
        "new": (),
        "none": (0,),
    }
    assert count_parameters(shapes.items()) == {"vision tower": 5, "editing head": 6, "other weights": 1}
    assert next(iter(count_parameters(shapes.items()))) == "vision tower"
