# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples that teach the text head when to make a picture: conversations with pictures in their answers."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_wallaroo import WallarooDataCollator
from transformers_wallaroo.conversations_wallaroo import AutoRequest
from transformers_wallaroo.modeling_wallaroo import IGNORE_INDEX
from transformers_wallaroo.prompts_wallaroo import PICTURE_MARKS
from transformers_wallaroo.shapes import make_sample

TEMPLATE = 'Draw "{prompt}" at {target_w}x{target_h}'


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def decide(processor):
    generator = torch.Generator().manual_seed(0)
    return WallarooDataCollator(processor, decision_probability=1, code_offset=0, generator=generator)


@pytest.fixture
def samples():
    common = {"height": 32, "width": 48, "template": TEMPLATE}
    drawn = {"task": "generate", "prompt": "a cat", "image": noise(70, 90), **common}
    edited = {"task": "edit", "prompt": "make it blue", "image": noise(70, 90, 1), **common}
    return drawn, {**edited, "source_image": noise(100, 150, 2)}


def learned(processor, encoded):
    return processor.tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])


@pytest.mark.parametrize("place", [0, 1])
def test_an_image_sample_becomes_a_request_that_is_answered_by_the_picture(decide, processor, samples, place):
    sample = samples[place]
    said = {sample["prompt"], TEMPLATE.format(prompt=sample["prompt"], target_w=48, target_h=32)}
    seen = set()
    for _ in range(20):
        encoded = decide.encode(sample)
        sources = [sample["source_image"]] if place else []
        message = {"role": "user", "content": [{"type": "image", "image": image} for image in sources]}
        text = processor.tokenizer.decode(encoded.ids)
        asked = max((each for each in said if each in text), key=len)
        seen.add(asked)
        message["content"] += [{"type": "text", "text": asked}]
        request = AutoRequest.of([message], {})
        # What comes before the answer is what `generate(task="auto")` starts from.
        prompt = processor.prepare_answers([request])["input_ids"][0].tolist()
        assert encoded.ids[: len(prompt)] == prompt and encoded.task.name == "understand"
        assert encoded.labels[: len(prompt)] == [IGNORE_INDEX] * len(prompt)
        # And what follows the picture is what an answer goes on from.
        answer = request.continued([{"type": "image", "image": sample["image"], "task": sample["task"]}])
        whole = processor.prepare_answers([answer])["input_ids"][0].tolist()
        assert encoded.ids[: len(whole)] == whole
        assert learned(processor, encoded) == PICTURE_MARKS[sample["task"]] + "<|vision_start|><|im_end|>\n"
        assert [image.size for image in encoded.seen] == [image.size for image in (*sources, sample["image"])]
    assert seen == said


def test_a_sample_of_codes_ends_where_its_picture_begins(decide, processor, samples):
    drawn = {name: value for name, value in samples[0].items() if name != "image"}
    encoded = decide.encode({**drawn, "codes": np.zeros((2, 3), dtype=np.int64)})
    assert learned(processor, encoded) == "<|generate_start|><|vision_start|>" and encoded.seen == []
    assert len(encoded.ids) == len(encoded.labels) == len(encoded.types)
    assert encoded.labels[-1] == encoded.ids[-1]


def test_decisions_come_as_often_as_asked(processor, samples):
    def share(probability):
        generator = torch.Generator().manual_seed(0)
        collate = WallarooDataCollator(processor, decision_probability=probability, generator=generator)
        return np.mean([collate.encode(samples[0]).task.name == "understand" for _ in range(200)])

    assert share(0) == 0 and share(0.3) == pytest.approx(0.3, abs=0.1)
    with pytest.raises(ValueError, match=r"`decision_probability` must be in \[0, 1\], but got 2"):
        WallarooDataCollator(processor, decision_probability=2)


def test_without_decisions_nothing_changes(processor, samples):
    """Older recipes draw the same templates and masks as before there was such a thing."""
    batches = [
        WallarooDataCollator(processor, generator=torch.Generator().manual_seed(3), **options)(
            [{name: value for name, value in sample.items() if name != "template"} for sample in samples]
        )
        for options in ({}, {"decision_probability": 0.0})
    ]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


def test_the_features_of_a_picture_in_an_answer_are_not_learned(decide, processor, samples):
    encoded = decide.encode(samples[1])
    ids = torch.tensor(encoded.ids)
    unlearned = ids[torch.tensor(encoded.labels) == IGNORE_INDEX]
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (ids == image).sum() == (unlearned == image).sum() > 20


def test_such_a_batch_trains_the_text_head(decide, model, samples):
    out = model(**decide(list(samples)))
    assert set(out.losses) == {"understand_text"} and bool(torch.isfinite(out.loss))


def test_talks_of_the_shapes_world_are_what_the_collator_takes(processor):
    collate = WallarooDataCollator(processor)
    for index in range(20):
        sample = make_sample("understand", index, 1, kind="dialogue")
        encoded = collate.encode(sample)
        text = learned(processor, encoded)
        for turn in sample["meta"]["turns"]:
            wanted = turn.answer if turn.task == "understand" else PICTURE_MARKS[turn.task] + "<|vision_start|>"
            place = text.find(wanted)
            assert place >= 0, (index, wanted, text)
            text = text[place + len(wanted) :]
        assert len(encoded.seen) == len(sample["images"])


def test_a_prompt_that_holds_the_placeholder_of_a_picture_is_no_decision(decide, samples):
    """It stays what it is without decisions: a prompt."""
    encoded = decide.encode({**samples[0], "prompt": "a tag <image> on a wall"})
    assert encoded.task.name == "generate"
