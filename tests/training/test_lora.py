# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""LoRA in the language model, adapters and heads trained whole, and saved so that peft loads them."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoProcessor

from transformers_wallaroo.training import lora
from transformers_wallaroo.training.lora import load_with_lora, lora_config, quantization
from transformers_wallaroo.training.preview import draw_preview, make_images
from transformers_wallaroo.training.run import build_trainer, run_stage
from transformers_wallaroo.training.stages import StageConfig

from small import PARTS_4, TASKS, collator_of, samples_of


def config_of(folder, output="unused", **changes):
    values = {
        "stage": "4",
        "init": str(folder),
        "output": str(output),
        "train": PARTS_4,
        "tasks": dict.fromkeys(TASKS, 1),
        "data": {task: {"shapes": {"bucket": [32, 64]}} for task in TASKS},
        "steps": 3,
        "learning_rate": 0.02,
        "bf16": False,
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
        "logging_steps": 1,
    }
    return StageConfig.from_dict({**values, **changes})


def logits_of(model, processor):
    """Text and image logits of a batch, by way of the losses, and images."""
    samples = samples_of(*TASKS, seed=9)
    model.eval()
    with torch.no_grad():
        losses = model(**collator_of(processor)(samples)).losses
    return losses, [np.asarray(image) for image in make_images(model, processor, samples[1:])]


def assert_same_answers(model, other, processor):
    losses, images = logits_of(model, processor)
    other_losses, other_images = logits_of(other, processor)
    assert len(losses) == 5
    assert all(torch.equal(losses[name], other_losses[name]) for name in losses)
    assert all(np.array_equal(one, two) for one, two in zip(images, other_images, strict=True))


def test_only_the_language_model_is_adapted(small_folder):
    model, counts = load_with_lora(config_of(small_folder))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2 * 7  # layers, linear layers in each
    assert all(".language_model.layers." in name for name in adapted)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = {name for name in names if ".modules_to_save." in name}
    assert all(".lora_" in name for name in names - whole)
    assert {name.split(".modules_to_save.")[0].split(".")[-1] for name in whole} == set(PARTS_4[1:])
    assert not any(word in name for name in names for word in ("visual", "vq_model", "embed_tokens", "lm_head"))
    assert set(counts) == set(PARTS_4)
    assert counts["language_model"] == sum(model.get_parameter(name).numel() for name in names - whole)
    assert 0 < counts["language_model"] < 20_000
    assert counts["generation_adapter"] == 8 * 64 + 64 + 64 * 64 + 64


def test_layers_may_be_chosen_and_dropout_is_an_option(small_folder):
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1, "use_rslora": True}
    model, counts = load_with_lora(config_of(small_folder, train=["language_model"], lora=options))
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}
    assert set(counts) == {"language_model"}
    assert model.peft_config["default"].lora_dropout == 0.1


@pytest.fixture(scope="module")
def trained(small_folder, tmp_path_factory):
    """Folder of a run of three steps."""
    output = tmp_path_factory.mktemp("lora")
    config = config_of(small_folder, output, gradient_checkpointing=True, save_steps=2, pack_length=0)
    assert run_stage(config) == output / "final"
    return output


def test_saved_adapter_loads_back_and_gives_the_same(small_folder, trained):
    base = AutoModel.from_pretrained(small_folder)
    processor = AutoProcessor.from_pretrained(trained / "final")
    before, _ = logits_of(base, processor)
    model = PeftModel.from_pretrained(base, trained / "final")
    assert model.peft_config["default"].base_model_name_or_path == str(small_folder)
    again = PeftModel.from_pretrained(AutoModel.from_pretrained(small_folder), trained / "checkpoint-3")
    assert_same_answers(model, again, processor)
    after, _ = logits_of(model, processor)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_folder_holds_adapter_and_processor_and_is_not_trained_again(small_folder, trained):
    names = {path.name for path in (trained / "final").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert not names & {"model.safetensors", "training_args.bin", "optimizer.pt"}
    assert (trained / "final" / "adapter_model.safetensors").stat().st_size < 500_000
    written = (trained / "final" / "adapter_model.safetensors").stat().st_mtime_ns
    assert run_stage(config_of(small_folder, trained)) == trained / "final"
    assert (trained / "final" / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_run_that_stopped_goes_on_to_the_same_adapter(small_folder, trained, tmp_path):
    shutil.copytree(trained / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    config = config_of(small_folder, tmp_path / "run", gradient_checkpointing=True, save_steps=2, pack_length=0)
    final = run_stage(config)
    logs = [
        json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        for folder in (trained, tmp_path / "run")
    ]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert (final / "adapter_model.safetensors").read_bytes() == (
        trained / "final" / "adapter_model.safetensors"
    ).read_bytes()


def test_merged_model_is_a_checkpoint_like_any_other(small_folder, trained, tmp_path):
    """Worst seen: 2e-6 of a loss."""
    processor = AutoProcessor.from_pretrained(trained / "final")
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(small_folder), trained / "final")
    losses, _ = logits_of(model, processor)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded, _ = logits_of(AutoModel.from_pretrained(tmp_path), processor)
    for name, loss in losses.items():
        assert float(loaded[name]) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rank": 4}, r"`lora` takes the options of peft's `LoraConfig` and `quantize`, but got 'rank'"),
        ({"lora_alfa": 4}, "but got 'lora_alfa'. Did you mean 'lora_alpha'"),
        ({"modules_to_save": ["visual"]}, "but got 'modules_to_save'. `train` says what is trained whole"),
        ({"target_modules": ["qkv"]}, r"`lora.target_modules` must be a list, of q_proj, .*, but got \['qkv'\]"),
        ({"target_modules": "q_proj"}, "`lora.target_modules` must be a list, of q_proj"),
    ],
)
def test_options_are_checked(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        lora_config(options, [])


def test_parts_that_an_adapter_would_lose_are_refused(small_folder):
    with pytest.raises(ValueError, match="`lora` cannot go with `vq_model`"):
        load_with_lora(config_of(small_folder, vq_model="another"))
    part = ["language_model", "editing_head"]
    with pytest.raises(
        ValueError, match="editing_adapter, source_adapter would be new, but `train` does not name them"
    ):
        load_with_lora(config_of(small_folder, train=part, editing_from_generation=True))
    with pytest.raises(ValueError, match="`train` names lm_head, but the model has no weights of its own there"):
        load_with_lora(config_of(small_folder, train=["language_model", "lm_head"]))
    with pytest.raises(
        ValueError, match="`lora` adapts the language model, but `train` does not name 'language_model'"
    ):
        config_of(small_folder, train=["generation_head"])


@pytest.mark.parametrize(
    ("name", "other", "own"),
    [("row_ends", False, True), ("source_positions", "2d", "1d"), ("shared_image_head", True, False)],
)
def test_settings_that_an_adapter_would_lose_are_refused(small_folder, name, other, own):
    with pytest.raises(
        ValueError, match=f"`lora` cannot go with `{name}` {other!r}, for it is {own!r} in .*checkpoint"
    ):
        load_with_lora(config_of(small_folder, **{name: other}))


def test_stage_does_not_start_from_an_adapter(trained):
    for changes in ({}, {"lora": None}):
        config = config_of(trained / "final", **changes)
        with pytest.raises(ValueError, match=r"`init` .* holds a LoRA adapter. Merge it .*merge_and_unload\(\)"):
            build_trainer(config)
    with pytest.raises(ValueError, match="holds a LoRA adapter"):
        load_with_lora(config_of(trained / "final"))


def test_previews_of_cached_codes(small_folder, small_processor):
    """The VQ tokenizer that decodes them is found with peft around the model."""
    [sample] = samples_of("generate", bucket=(32, 64))
    cached = {**sample, "codes": np.arange(8).reshape(2, 4), "image": None}
    model, _ = load_with_lora(config_of(small_folder))
    sheets = [draw_preview(each, small_processor, [cached]) for each in (model, model.get_base_model())]
    assert np.array_equal(*[np.asarray(sheet) for sheet in sheets])


def test_quantization_without_its_library_is_refused(monkeypatch, small_folder):
    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"`lora.quantize` is '4bit', which needs bitsandbytes \(`pip install"):
        load_with_lora(config_of(small_folder, lora={"r": 4, "quantize": "4bit"}))
    with pytest.raises(ValueError, match=r"`lora.quantize` must be of '4bit', '8bit', but got '2bit'"):
        quantization("2bit")


def test_quantization_is_of_the_language_model_alone(monkeypatch):
    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: True)
    for name in ("4bit", "8bit"):
        config = quantization(name)
        assert (config.load_in_4bit, config.load_in_8bit) == (name == "4bit", name == "8bit")
        names = {"vq_model", "visual", "lm_head", *PARTS_4[1:]}
        assert {name.removeprefix("model.") for name in config.llm_int8_skip_modules} == names


def test_quantized_language_model_learns(small_folder, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = config_of(small_folder, tmp_path, lora={"r": 4, "quantize": "4bit"})
    model, counts = load_with_lora(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert len(linear) == 14
    assert all(".language_model.layers." in name for name in linear)
    assert set(counts) == set(PARTS_4)
    final = run_stage(config)
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    assert (final / "adapter_model.safetensors").is_file()
