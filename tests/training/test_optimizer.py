# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Muon for the matrices between layers, AdamW for the rest."""

import json
from functools import partial

import pytest
import torch
from test_resuming import killed
from torch import nn

from transformers_wallaroo.training.optimizer import MuonWithAdamW, StackedMuon, hidden_matrices
from transformers_wallaroo.training.run import build_trainer, run_stage
from transformers_wallaroo.training.stages import StageConfig, freeze

from small import PARTS_4, TASKS, losses_of


def recipe(folder, output, **changes):
    values = {
        "stage": "4",
        "init": str(folder),
        "output": str(output),
        "train": PARTS_4,
        "tasks": {"understand": 1, "generate": 1, "edit": 1},
        "data": {task: {"shapes": {"length": 9}} for task in TASKS},
        "steps": 6,
        "learning_rate": 0.01,
        "scheduler": "cosine",
        "optimizer": "muon",
        "bf16": False,
        "save_steps": 2,
        "logging_steps": 1,
    }
    return StageConfig.from_dict({**values, **changes})


def test_hidden_matrices_are_those_between_hidden_states(small_model):
    freeze(small_model, ["visual", *PARTS_4])
    names = hidden_matrices(small_model)
    shapes = dict(small_model.named_parameters())
    assert all(shapes[name].ndim == 2 for name in names)
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in names
    assert "model.visual.merger.mlp.0.weight" in names
    assert "generation_head.fc1.weight" in names and "model.source_adapter.fc2.weight" in names
    outer = ("embed_tokens", "lm_head", "_head.fc2", "_adapter.fc1", "vq_model", "patch_embed", "norm", "bias")
    assert not [name for name in names for part in outer if part in name]
    freeze(small_model, ["generation_head"])
    assert hidden_matrices(small_model) == {"generation_head.fc1.weight"}


def test_a_step_moves_hidden_matrices_alike_in_all_directions_and_the_rest_as_adamw():
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(5, 16), "linear": nn.Linear(16, 24), "norm": nn.LayerNorm(24)})
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = MuonWithAdamW(model, lr=0.02)
    model["norm"](model["linear"](model["embed"](torch.arange(5)))).pow(3).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    optimizer.step()
    moved = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    strengths = torch.linalg.svdvals(moved["linear.weight"])[:4]
    uneven = torch.linalg.svdvals(gradients["linear.weight"])[:4]
    assert strengths.max() / strengths.min() < 1.5 < uneven.max() / uneven.min()
    assert 0.2 * 0.02 * 0.5 < moved["linear.weight"].square().mean().sqrt() < 0.2 * 0.02 * 1.5
    for name in ("embed.weight", "linear.bias", "norm.weight"):
        # Adam's first step is the learning rate, whatever the gradient.
        torch.testing.assert_close(moved[name], -0.02 * gradients[name].sign(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("nesterov", [True, False])
def test_stacked_steps_are_those_of_torch(nesterov):
    torch.manual_seed(4)
    shapes = [(8, 8), (8, 8), (12, 20), (20, 12), (5, 30)]
    start = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) * 0.1 for shape in shapes] for _ in range(3)]
    results = []
    for kind in (partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw"), StackedMuon):
        weights = [nn.Parameter(weight.clone()) for weight in start]
        unused = nn.Parameter(torch.ones(2, 2))
        optimizer = kind([*weights, unused], lr=0.05, weight_decay=0.1, nesterov=nesterov)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        assert torch.equal(unused, torch.ones(2, 2))
        results.append(weights)
    for expected, weight, first in zip(*results, start, strict=True):
        # The iteration runs in bfloat16.
        assert (weight - expected).norm() < 0.02 * (expected - first).norm()


def test_weights_decay_but_not_biases_and_norms():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = MuonWithAdamW(model, lr=0.1, weight_decay=0.5)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, start[name] * (0.95 if name == "0.weight" else 1.0))


def test_schedules_reach_both_parts_and_the_state_comes_back():
    torch.manual_seed(1)
    inputs = torch.randn(6, 8, 4)

    def build():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        optimizer = MuonWithAdamW(model, lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    def train(model, optimizer, schedule, batches):
        for batch in batches:
            model(batch).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert all(weight.grad is None for weight in model.parameters())
            schedule.step()

    whole = build()
    train(*whole, inputs)
    assert [group["lr"] for part in whole[1].parts for group in part.param_groups] == [0.1 * 0.5**6] * 2
    first, second = build(), build()
    train(*first, inputs[:3])
    for old, new in zip(first, second, strict=True):
        new.load_state_dict(old.state_dict())
    train(*second, inputs[3:])
    for old, new in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(old, new)


def test_state_of_another_optimizer_is_refused():
    model = nn.Linear(4, 4)
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match=r"must hold the state of Muon and AdamW.*`optimizer` that it was begun with"):
        MuonWithAdamW(model, lr=0.1).load_state_dict(other.state_dict())


def test_recipe_chooses_the_optimizer(small_folder, tmp_path):
    trainer = build_trainer(recipe(small_folder, tmp_path, weight_decay=0.1))
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonWithAdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert [type(part).__name__ for part in optimizer.parts] == ["StackedMuon", "AdamW"]
    trained = {id(weight) for weight in trainer.model.parameters() if weight.requires_grad}
    assert {id(weight) for group in optimizer.param_groups for weight in group["params"]} == trained
    trainer = build_trainer(recipe(small_folder, tmp_path, optimizer="adamw"))
    assert type(trainer.create_optimizer()) is torch.optim.AdamW
    with pytest.raises(
        ValueError, match=r"`optimizer` must be of 'adamw', 'muon', but got 'moun'. Did you mean 'muon'"
    ):
        recipe(small_folder, tmp_path, optimizer="moun")


def test_muon_refuses_what_is_no_whole_matrix():
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = StackedMuon([weight], lr=0.1)
    weight.data = weight.grad = torch.ones(16)
    with pytest.raises(
        ValueError, match=r"`optimizer` 'muon' needs whole matrices, .*\(16,\) that is sharded or flattened"
    ):
        optimizer.step()


def test_killed_run_goes_on_with_muon_as_if_nothing_happened(small_folder, tmp_path):
    def log_of(folder):
        return losses_of(json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())["log_history"])

    run_stage(recipe(small_folder, tmp_path / "whole"))
    killed(recipe(small_folder, tmp_path / "killed"), "training_step", 4)
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    run_stage(recipe(small_folder, tmp_path / "killed"))
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
