# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Stages as data: what a recipe may say, what a stage trains, and what it makes of the checkpoint before it."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from test_remote_code import run_without_the_package
from transformers_wallaroo import WallarooForConditionalGeneration
from transformers_wallaroo.image_grid_wallaroo import BUCKETS_512
from transformers_wallaroo.training import run
from transformers_wallaroo.training.run import build_trainer, run_stage, training_arguments
from transformers_wallaroo.training.stages import (
    TRAINABLE,
    StageConfig,
    freeze,
    load_model,
    load_processor,
    prepare_processor,
    with_vq_model,
)

from reference import images
from small import PARTS_4, TASKS, build_small, samples_of

BASE = {
    "stage": "4",
    "init": "checkpoint",
    "output": "run",
    "train": PARTS_4,
    "tasks": {"generate": 2, "edit": 1},
    "steps": 2,
    "learning_rate": 0.05,
}
RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*/*.yaml"))
SHAPES = {task: {"shapes": {"bucket": [32, 64]}} for task in TASKS}
SQUARES = {"shapes": {"bucket": [64, 64]}}
EDITING = ("editing_adapter", "editing_head", "source_adapter")


def config_of(**changes):
    return StageConfig.from_dict({**BASE, **changes})


# ---------------------------------------------------------------------- what a recipe may say


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_of_the_repository_are_right(path):
    if path.stem in ("vq", "common"):
        assert "steps" not in yaml.safe_load(path.read_text()) or path.stem == "vq"
        return
    config = StageConfig.load(path)
    assert config.accumulation(1) >= 1
    for task, source in config.data.items():
        [name] = source
        assert name in run.open_source.__globals__["SOURCES"], task


# docs/protocol.md, section 10: learning rate, warm-up, steps, global batch, limits, tasks; the vision tower's pixels
# (section 9).
RELEASED = {
    "stage-1": (1e-4, 1000, 30_000, 256, {"generate": 832}, {"generate": 4}),
    "stage-2": (1e-4, 5000, 300_000, 320, {"understand": 2560, "generate": 768}, {"generate": 4, "understand": 1}),
    "stage-3a": (4e-5, 0, 50_000, 384, {"understand": 2668, "generate": 1600}, {"generate": 2, "understand": 1}),
    "stage-3b": (1e-5, 0, 50_000, 384, {"understand": 2668, "generate": 1632}, {"generate": 2, "understand": 1}),
    "stage-4": (
        1e-5,
        0,
        55_000,
        384,
        {"understand": 1504, "generate": 1632, "edit": 2624},
        {"generate": 1, "edit": 1, "understand": 1},
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_recipes_at_7b_have_the_released_values(name):
    config = StageConfig.load(next(path for path in RECIPES if path.parent.name == "7b" and path.stem == name))
    found = (config.learning_rate, config.warmup_steps, config.steps, config.global_batch, config.limits, config.tasks)
    assert found == RELEASED[name]
    assert (config.row_ends, config.size_indicators) == ((True, "token") if name >= "stage-3b" else (False, "none"))
    assert (config.size, config.buckets) == {
        "stage-1": (384, "checkpoint"),
        "stage-2": (384, "checkpoint"),
        "stage-3a": (512, "checkpoint"),
    }.get(name, (None, "released"))
    assert config.scheduler == "constant_with_warmup" and config.optimizer == "adamw" and config.bf16
    assert config.unconditional_probability == 0.1 and config.mask_ratio == 0.6 and config.max_grad_norm == 1.0
    assert "visual" not in config.train and ("language_model" in config.train) == (name != "stage-1")


def test_muon_goes_with_whole_weights_and_its_own_options():
    with pytest.raises(ValueError, match="`optimizer` 'muon' is for whole matrices, not for those of `lora`"):
        config_of(optimizer="muon", train=["language_model"], lora={"r": 4})
    with pytest.raises(ValueError, match="`trainer` has adam_beta1, which `optimizer` 'muon' does not read"):
        config_of(optimizer="muon", trainer={"adam_beta1": 0.5})


def test_unknown_keys_name_the_near_one():
    with pytest.raises(
        ValueError, match=r"the recipe has the unknown key 'learning_rat'. Did you mean 'learning_rate'\?"
    ):
        config_of(learning_rat=1)
    with pytest.raises(
        ValueError, match=r"the unknown key 'zzz'. Known keys: stage, init, output, train, tasks, steps"
    ):
        config_of(zzz=1)
    with pytest.raises(ValueError, match="the recipe lacks 'init', 'steps'"):
        StageConfig.from_dict({key: value for key, value in BASE.items() if key not in ("init", "steps")})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"learning_rate": "1e-4"}, r"`learning_rate` must be float, but got '1e-4'. YAML .* Write 1.0e-4, with a dot"),
        ({"learning_rate": "12e-5"}, r"Write 1.2e-4, with a dot"),
        ({"steps": "1e3"}, r"`steps` must be int, but got '1e3'. YAML reads it as text. Write 1000"),
        ({"steps": "many"}, "`steps` must be int, but got 'many'.$"),
        ({"steps": 10.0}, "`steps` must be int, but got 10.0"),
        ({"steps": True}, "`steps` must be int, but got True"),
        ({"learning_rate": True}, "`learning_rate` must be float, but got True"),
        ({"bf16": 1}, "`bf16` must be bool, but got 1"),
        ({"init": 3}, "`init` must be str, but got 3"),
        ({"train": "language_model"}, r"`train` must be list\[str\], but got 'language_model'"),
        ({"tasks": ["generate"]}, r"`tasks` must be dict\[str, int\], but got \['generate'\]"),
        ({"data": "shapes"}, r"`data` must be dict\[str, Any\], but got 'shapes'"),
        ({"max_ratio": "2"}, r"`max_ratio` must be float \| None, but got '2'"),
        ({"pack_length": 1.5}, r"`pack_length` must be int \| None, but got 1.5"),
        ({"vision_pixels": 100}, r"`vision_pixels` must be list\[int\] \| None, but got 100"),
        ({"lora": 8}, r"`lora` must be dict\[str, Any\] \| None, but got 8"),
        ({"stage": "5"}, "`stage` must be of 'base', '1', '2', '3a', '3b', '4', but got '5'"),
        (
            {"train": ["generation_hed"]},
            "`train` must be of .* but got 'generation_hed'. Did you mean 'generation_head'",
        ),
        ({"train": ["vq_model"]}, "`train` must be of 'visual', 'language_model', 'lm_head', .* but got 'vq_model'"),
        ({"train": []}, "`train` must name what is trained, of visual, language_model, .* but is empty"),
        ({"tasks": {"draw": 1}}, "`tasks` must be of 'understand', 'generate', 'edit', but got 'draw'"),
        ({"tasks": {}}, "`tasks` must be a whole number of samples for each task"),
        ({"tasks": {"edit": 0}}, r"`tasks` must be a whole number .* but got \{'edit': 0\}"),
        ({"tasks": {"edit": 1.5}}, r"`tasks` must be a whole number .* but got \{'edit': 1.5\}"),
        ({"limits": {"edits": 3}}, "`limits` must be of .* but got 'edits'. Did you mean 'edit'"),
        (
            {"limits": {"edit": "9"}},
            r"`limits` must be a whole number of tokens for each task, but got \{'edit': '9'\}",
        ),
        ({"loss_weights": {"edit": -1}}, r"`loss_weights` must be a number from 0 on .* but got \{'edit': -1\}"),
        ({"loss_weights": {"see": 1}}, "`loss_weights` must be of .* but got 'see'"),
        ({"data": {"edit": {}}}, r"`data` must have an entry for each of \['edit', 'generate'\], but has \['edit'\]"),
        ({"data": {"draw": {}}}, "`data` must be of 'understand', 'generate', 'edit', but got 'draw'"),
        (
            {"evaluation": {"understand": {}}, "eval_steps": 1},
            "`evaluation` must be of 'generate', 'edit', 'samples', but",
        ),
        ({"evaluation": {"edit": SHAPES["edit"]}}, "`evaluation` and `eval_steps` go together"),
        ({"eval_steps": 5}, "`evaluation` and `eval_steps` go together"),
        ({"previews": 4}, "`previews` are drawn of the samples of `evaluation`, which is empty"),
        (
            {"previews": 4, "evaluation": {"understand": {}}, "eval_steps": 1, "tasks": {"understand": 1}},
            "`previews` are pictures that the model makes, but `evaluation` has 'understand' alone",
        ),
        ({"size": 64, "buckets": "released"}, "Give `size` for squares, or `buckets`, not both"),
        ({"buckets": "release"}, "`buckets` must be of 'checkpoint', 'released', but got 'release'. Did you mean"),
        ({"buckets": [[1.0, 64]]}, r"`buckets` must be a list of \[ratio, height, width\], but got \[\[1.0, 64\]\]"),
        ({"size_indicators": "tokens"}, "`size_indicators` must be of .* but got 'tokens'. Did you mean 'token'"),
        ({"vision_pixels": [100]}, r"`vision_pixels` must be \[fewest, most\], but got \[100\]"),
        ({"steps": 0}, "`steps` must be 1 or more, but got 0"),
        ({"save_steps": 0}, "`save_steps` must be 1 or more, but got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be 0 or more, but got -1.0"),
        ({"pack_length": -1}, "`pack_length` must be 0 or more, but got -1"),
        ({"lora": {}, "train": ["lm_head"]}, "`lora` adapts the language model, but `train` does not name"),
    ],
)
def test_values_are_checked(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        config_of(**changes)


def test_numbers_of_the_other_kind_are_taken_where_they_fit():
    config = config_of(stage=2, learning_rate=1, max_ratio=2, lora=None)
    assert (config.stage, config.learning_rate) == ("2", 1)


def test_recipes_build_on_others_and_are_overridden(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "common.yaml").write_text(yaml.safe_dump({**BASE, "data": SHAPES, "tasks": dict.fromkeys(TASKS, 1)}))
    (tmp_path / "deep" / "one.yaml").write_text("defaults: ../common.yaml\nsteps: 7\nseed: 3\n")
    (tmp_path / "two.yaml").write_text("defaults: deep/one.yaml\nseed: 4\n")
    config = StageConfig.load(tmp_path / "two.yaml")
    assert (config.stage, config.steps, config.seed) == ("4", 7, 4)
    overrides = ["steps=9", "data.generate.shapes.seed=5", "trainer.report_to=tensorboard", "learning_rate=1.0e-3"]
    config = StageConfig.load(tmp_path / "two.yaml", [*overrides, "train=[language_model, lm_head]", "max_ratio=null"])
    assert (config.steps, config.learning_rate, config.train) == (9, 1e-3, ["language_model", "lm_head"])
    assert config.data["generate"]["shapes"] == {"bucket": [32, 64], "seed": 5}
    assert config.trainer == {"report_to": "tensorboard"}
    for override, complaint in (
        ("steps", "An override must be key=value, but got 'steps'"),
        ("steps.more=1", "The override 'steps.more=1' goes into 'steps', which is no mapping"),
        ("stepz=1", "two.yaml has the unknown key 'stepz'. Did you mean 'steps'"),
        ("learning_rate=1e-4", r"`learning_rate` must be float, but got '1e-4'. YAML .* Write 1.0e-4, with a dot"),
    ):
        with pytest.raises(ValueError, match=complaint):
            StageConfig.load(tmp_path / "two.yaml", [override])
    with pytest.raises(ValueError, match=r"There is no recipe .*three.yaml"):
        StageConfig.load(tmp_path / "three.yaml")


def test_batches_a_step_follow_from_the_global_batch():
    config = config_of(global_batch=24, gradient_accumulation=5)
    assert config.batch_size == 3
    assert [config.accumulation(processes) for processes in (1, 2, 8)] == [8, 4, 1]
    assert config_of(gradient_accumulation=5).accumulation(8) == 5
    with pytest.raises(ValueError, match=r"`global_batch` is 24, but 3 processes with 3 samples a batch .* make 9"):
        config.accumulation(3)
    with pytest.raises(ValueError, match=r"`global_batch` is 24, but 16 processes .* make 48. Take a multiple of it"):
        config.accumulation(16)


def test_arguments_of_the_trainer_follow_from_the_recipe(monkeypatch):
    config = config_of(
        global_batch=12,
        warmup_steps=3,
        scheduler="cosine",
        max_grad_norm=0.5,
        loss_weights={"edit": 2},
        trainer={"spike_factor": 3.0, "save_total_limit": 5},
    )
    arguments = training_arguments(config)
    assert arguments.gradient_accumulation_steps == 4
    assert arguments.per_device_train_batch_size == 3
    assert (arguments.warmup_steps, arguments.lr_scheduler_type, arguments.max_grad_norm) == (3, "cosine", 0.5)
    assert (arguments.loss_weights, arguments.spike_factor, arguments.save_total_limit) == ({"edit": 2}, 3.0, 5)
    assert arguments.group_by_length
    assert arguments.max_steps == 2
    assert not training_arguments(config_of(pack_length=0)).group_by_length
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(run, "WallarooTrainingArguments", lambda **values: values)
    assert training_arguments(config)["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"spike_facto": 3},
            r"`trainer` has what `WallarooTrainingArguments` does not take: .* Did you mean 'spike_factor'",
        ),
        ({"max_steps": 3}, "`trainer` has max_steps, for which the recipe has keys of its own"),
        ({"learning_rate": 3.0}, "`trainer` has learning_rate, for which the recipe has keys of its own"),
    ],
)
def test_options_of_the_trainer_are_checked(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        training_arguments(config_of(trainer=options))


def test_stage_without_data_is_refused(small_folder):
    with pytest.raises(ValueError, match="`data` must say where the samples of each task come from, but is empty"):
        build_trainer(config_of(init=str(small_folder)))


# ---------------------------------------------------------------------- what a stage trains


@pytest.mark.parametrize(
    ("train", "samples"),
    [
        (["generation_adapter", "generation_head"], ["generate"]),
        (["language_model", "generation_adapter", "generation_head"], ["generate", "understand"]),
        (PARTS_4, TASKS),
        (["visual", "language_model"], ["understand"]),
    ],
    ids=["1", "2", "4", "base"],
)
def test_stage_trains_the_named_parts_alone(small_folder, tmp_path, train, samples):
    """Two steps of AdamW with weight decay: everything else stays as it is, to the last bit."""
    config = config_of(
        init=str(small_folder),
        output=str(tmp_path),
        train=train,
        tasks=dict.fromkeys(samples, 2),
        data={task: SHAPES[task] for task in samples},
        weight_decay=0.1,
        bf16=False,
        unconditional_probability=0.0,
        trainer={"save_strategy": "no"},
    )
    trainer = build_trainer(config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    parts = {part: {name for name in before if part in name.split(".")} for part in TRAINABLE}
    tied = {"lm_head.weight"} if "language_model" in train else set()
    assert moved <= set.union(*(parts[part] for part in train)) | tied
    for part in train:
        still = parts[part] - moved
        # A bias of the keys has no effect on attention, and so no gradient but noise; that of noise is not asserted.
        assert all(name.endswith("k_proj.bias") or "k." in name for name in still), still
    assert not any("vq_model" in name for name in moved)


def test_counts_and_gradients_are_of_the_named_parts(small_model):
    counts = freeze(small_model, ["generation_head", "visual"])
    assert counts == {
        part: sum(value.numel() for name, value in small_model.named_parameters() if part in name.split("."))
        for part in ("generation_head", "visual")
    }
    assert not small_model.train().model.vq_model.training
    assert {name.split(".")[0] for name, value in small_model.named_parameters() if value.requires_grad} == {
        "generation_head",
        "model",
    }
    assert not any(value.requires_grad for value in small_model.model.vq_model.parameters())


def test_text_head_of_its_own_is_trained_by_its_name(small_model):
    untied, _ = build_small(tied=False)
    assert freeze(untied, ["lm_head"]) == {"lm_head": untied.lm_head.weight.numel()}
    assert not untied.get_input_embeddings().weight.requires_grad
    with pytest.raises(ValueError, match="`train` names lm_head, but the model has no weights of its own there"):
        freeze(small_model, ["language_model", "lm_head"])


# ---------------------------------------------------------------------- the checkpoint before it


def without(folder, target, *parts):
    """A copy of a checkpoint that lacks some parts."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != "model.safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not set(parts) & set(name.split("."))}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_stage_4_creates_the_parts_of_editing(small_folder, tmp_path, caplog):
    """Their random weights depend on the seed alone, not on what was drawn before."""
    folder = without(small_folder, tmp_path / "stage-3b", *EDITING)
    models = []
    for seed in (0, 0, 1):
        models.append(load_model(config_of(init=str(folder), seed=seed)))
        torch.rand(3)
    assert "has no editing_adapter, editing_head, source_adapter; they start from random weights" in caplog.text
    first, again, other = (model.state_dict() for model in models)
    expected = load_file(small_folder / "model.safetensors")
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if set(EDITING) & set(name.split(".")):
            assert name.endswith("bias") or not torch.equal(value, other[name])
            assert value.isfinite().all()
        elif name != "lm_head.weight":
            assert torch.equal(value, expected[name])


@pytest.mark.parametrize("stage", ["2", "3a", "3b", "4"])
def test_stages_after_the_first_need_the_parts_of_generation(small_folder, tmp_path, stage):
    folder = without(small_folder, tmp_path / "base", "generation_adapter", "generation_head")
    with pytest.raises(ValueError, match=f"has no generation_adapter, generation_head, so stage {stage} cannot start"):
        load_model(config_of(init=str(folder), stage=stage))
    for early in ("base", "1"):
        assert load_model(config_of(init=str(folder), stage=early)).generation_head.fc1.weight.isfinite().all()


@pytest.mark.parametrize("init", ["runs/tiny/3/final", "/nowhere", "./nowhere", "../nowhere", "~/nowhere"])
def test_stage_before_must_be_trained_first(init):
    complaint = f"`init` must be a checkpoint, but there is no folder '{init}'. If it .* train that stage first"
    for function in (load_model, load_processor):
        with pytest.raises(ValueError, match=complaint):
            function(config_of(init=init))


def test_checkpoint_with_holes_is_refused(small_folder, tmp_path):
    folder = without(small_folder, tmp_path / "broken", "vq_model")
    with pytest.raises(ValueError, match=r"broken does not hold what its config says: missing \['model.vq_model"):
        load_model(config_of(init=str(folder)))


def test_editing_may_start_from_generation(small_folder, small_model):
    model = load_model(config_of(init=str(small_folder), editing_from_generation=True))
    for target, source in (
        (model.model.editing_adapter, model.model.generation_adapter),
        (model.model.source_adapter, model.model.generation_adapter),
        (model.editing_head, model.generation_head),
    ):
        for name, value in target.state_dict().items():
            assert torch.equal(value, source.state_dict()[name])
            assert value.data_ptr() != source.state_dict()[name].data_ptr()
    assert not torch.equal(small_model.editing_head.fc1.weight, small_model.generation_head.fc1.weight)


def test_editing_that_shares_its_head_may_start_from_generation(tmp_path):
    model, _ = build_small()
    values = model.config.to_dict()
    shared = WallarooForConditionalGeneration(type(model.config).from_dict({**values, "shared_image_head": True}))
    shared.save_pretrained(tmp_path)
    loaded = load_model(config_of(init=str(tmp_path), editing_from_generation=True))
    assert not hasattr(loaded, "editing_head")
    with pytest.raises(ValueError, match="`train` names editing_head, but the model has no weights of its own there"):
        freeze(loaded, ["editing_head"])


def test_weights_are_float32_and_the_attention_is_as_asked(small_folder, tmp_path):
    model = AutoModel.from_pretrained(small_folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = load_model(config_of(init=str(tmp_path), attention="eager"))
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert loaded.model.language_model.config._attn_implementation == "eager"


def test_another_vq_tokenizer_keeps_the_language_model(small_folder, tmp_path):
    """Adapters and heads are new, for its codes mean other things."""
    other, _ = build_small(seed=5, vq={"num_embeddings": 96, "embed_dim": 4})
    other.model.vq_model.save_pretrained(tmp_path)
    config = config_of(init=str(small_folder), vq_model=str(tmp_path), attention="eager", row_ends=False)
    changed = load_model(config)
    expected = load_file(small_folder / "model.safetensors")
    for name, value in changed.state_dict().items():
        if "vq_model" in name.split("."):
            assert torch.equal(value, other.state_dict()[name])
        elif name == "lm_head.weight":
            assert value is changed.lm_head.weight or torch.equal(value, changed.get_input_embeddings().weight)
        elif any(part in name for part in ("adapter", "generation_head", "editing_head")):
            assert (
                name not in expected
                or value.shape != expected[name].shape
                or not torch.equal(value, expected[name])
                or name.endswith("bias")
            )
        else:
            assert torch.equal(value, expected[name]), name
    assert changed.config.vq_config.num_embeddings == 96
    assert changed.generation_head.fc2.weight.shape[0] == 96
    assert changed.config.row_ends is False
    assert changed.model.language_model.config._attn_implementation == "eager"
    assert not any(value.requires_grad for value in changed.train().model.vq_model.parameters())
    again = with_vq_model(load_model(config_of(init=str(small_folder))), other.model.vq_model, seed=0)
    for name, value in again.state_dict().items():
        assert torch.equal(value, changed.state_dict()[name]), name


def test_processor_carries_the_sizes_and_marks_of_the_stage(small_processor, tmp_path):
    config = config_of(size=64, row_ends=False, size_indicators="none", vision_pixels=[256, 8192])
    prepare_processor(small_processor, config).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.image_processor.bucket_of(10, 90) == (64, 64)
    assert (loaded.row_ends, loaded.size_indicators) == (False, "none")
    assert dict(loaded.image_processor.size) == {"shortest_edge": 256, "longest_edge": 8192}
    released = prepare_processor(copy.deepcopy(small_processor), config_of(buckets="released"))
    assert released.image_processor.bucket_of(100, 100) == (512, 512)
    assert [tuple(bucket) for bucket in released.image_processor.buckets] == list(BUCKETS_512)
    listed = prepare_processor(copy.deepcopy(small_processor), config_of(buckets=[[1.0, 48, 48], [2.0, 96, 48]]))
    assert listed.image_processor.bucket_of(100, 40) == (96, 48)
    kept = prepare_processor(copy.deepcopy(small_processor), config_of())
    assert kept.image_processor.buckets == small_processor.image_processor.buckets
    assert (kept.row_ends, kept.size_indicators) == (False, "none"), "what a recipe does not say stays"


# ---------------------------------------------------------------------- the checkpoint after it


@pytest.fixture(scope="module")
def finished(small_folder, tmp_path_factory):
    """The run of a stage, and what it was asked to do."""
    output = tmp_path_factory.mktemp("stage")
    config = config_of(
        init=str(small_folder),
        output=str(output),
        data=dict.fromkeys(("generate", "edit"), SQUARES),
        size_indicators="none",
        size=64,
        previews=2,
        evaluation={"generate": SQUARES, "samples": 4},
        eval_steps=2,
    )
    return config, run_stage(config)


def test_checkpoints_load_as_they_were_saved(finished):
    config, final = finished
    assert final == Path(config.output) / "final"
    model, processor = AutoModel.from_pretrained(final), AutoProcessor.from_pretrained(final)
    assert processor.size_indicators == "none"
    assert processor.image_processor.bucket_of(9, 90) == (64, 64)
    checkpoint = AutoModel.from_pretrained(Path(config.output) / "checkpoint-2").state_dict()
    assert all(torch.equal(value, checkpoint[name]) for name, value in model.state_dict().items())
    assert not (final / "training_args.bin").exists()
    assert not (Path(config.output) / "final.partial").exists()
    inputs = processor(text="a red star", task="generate", return_tensors="pt")
    output = model.generate(**inputs, task="generate", seed=1)
    assert model.decode_image_tokens(output)[0].shape == (3, 64, 64)
    assert (Path(config.output) / "previews" / "step-0000002.png").is_file()


def test_checkpoint_loads_without_the_package(finished, tmp_path):
    """Also by every Auto class, saved again, and for all three tasks."""
    _, final = finished
    picture = tmp_path / "picture.png"
    images("understand.png").resize((64, 32)).save(picture)
    printed = run_without_the_package(tmp_path, final, tmp_path / "saved", picture)
    model, processor = AutoModel.from_pretrained(final), AutoProcessor.from_pretrained(final)
    inputs = processor(text="a fox", task="generate", height=32, width=48, return_tensors="pt")
    assert str(model.generate(**inputs, seed=3).tolist()) in printed


def test_stage_that_is_done_is_not_done_again(finished, monkeypatch, caplog):
    """And one is told how to do it again, and whether it would be another."""
    config, final = finished
    monkeypatch.setattr(run, "build_trainer", lambda _config: pytest.fail("it is trained again"))
    assert run_stage(config) == final
    advice = "To train it anew, give `--no-resume` (`resume=False`) or another `output`."
    assert f"final is there already: this stage is done. {advice}" in caplog.text
    assert run_stage(dataclasses.replace(config, seed=5, save_steps=7)) == final
    assert f"this stage is done. It was trained otherwise: `seed` was 0 and is 5. {advice}" in caplog.text


def test_next_stage_starts_from_it(finished, tmp_path):
    config, final = finished
    following = config_of(init=str(final), output=str(tmp_path), data=config.data, steps=1)
    trainer = build_trainer(following)
    assert trainer.processing_class.image_processor.bucket_of(9, 90) == (64, 64)
    loaded = AutoModel.from_pretrained(final).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.model.state_dict().items())


def test_previews_are_of_pictures_alone(small_folder, tmp_path):
    tasks = {"understand": 2, "generate": 1}
    config = config_of(
        init=str(small_folder),
        output=str(tmp_path),
        tasks=tasks,
        data={task: SHAPES[task] for task in tasks},
        evaluation={**{task: SHAPES[task] for task in tasks}, "samples": 9},
        eval_steps=1,
        previews=2,
    )
    trainer = build_trainer(config)
    assert [sample["task"] for sample in trainer.preview_samples] == ["generate"] * 2
    assert len(trainer.eval_dataset) == 9
    assert len(trainer.train_dataset) == 2 * 3
    seen = [sample["image"].tobytes() for sample in samples_of("generate", seed=1, bucket=(32, 64))]
    assert trainer.preview_samples[0]["image"].tobytes() not in seen
