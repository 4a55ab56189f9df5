# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint that comes with the package: whole, small, and as good as it should be on a few samples."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor

import transformers_wallaroo
from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation import evaluate_shapes
from transformers_wallaroo.shapes import SIZES
from transformers_wallaroo.training.tiny import GUIDANCE_SCALE


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint()


def test_folder_is_whole_and_small():
    folder = transformers_wallaroo.tiny_path()
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt"))]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 16 * 2**20
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118, it is no dict
    assert kinds == {"BF16", "F16"}


def test_auto_classes_load_it():
    path = transformers_wallaroo.tiny_path()
    model = AutoModel.from_pretrained(path, trust_remote_code=True)
    assert isinstance(model, WallarooForConditionalGeneration)
    assert model.model.vq_model.quant_conv.weight.dtype == torch.float32
    assert model.generation_config.image_defaults == {"guidance_scale": GUIDANCE_SCALE}
    assert isinstance(AutoProcessor.from_pretrained(path, trust_remote_code=True), WallarooProcessor)


def test_it_does_its_three_tasks(tiny):
    """Far above chance; the card has the scores of many samples."""
    report = evaluate_shapes(*tiny, samples=36, held_out=0, show_progress=False).to_dict()
    floors = {"understand": 0.75, "generate": 0.8, "edit": 0.75}
    assert {task: score for task, score in report["overall"].items() if score < floors[task]} == {}
    assert report["size_exact"] == 1
    assert report["scorer"]["rendered"]["exact"] >= 0.995 and report["scorer"]["tokenized"]["exact"] >= 0.98
    assert report["settings"]["generation"]["guidance_scale"] == GUIDANCE_SCALE


@pytest.mark.parametrize("size", SIZES)
def test_same_seed_same_picture_alone_and_in_a_batch(tiny, size):
    model, processor = tiny
    height, width = size
    prompts = ["a red circle", "三个蓝色的星形"]
    inputs = processor(text=prompts, task="generate", height=height, width=width, return_tensors="pt")
    both = model.generate(**inputs, seed=[5, 6], return_dict_in_generate=True, show_progress=False).codes
    for index, prompt in enumerate(prompts):
        inputs = processor(text=prompt, task="generate", height=height, width=width, return_tensors="pt")
        alone = model.generate(**inputs, seed=5 + index, return_dict_in_generate=True, show_progress=False).codes[0]
        assert alone.shape == (height // 16, width // 16) and torch.equal(alone, both[index])
