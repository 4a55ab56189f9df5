# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Rows of several samples: as good as a row each, and no sample sees another."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_wallaroo.image_grid_wallaroo import TokenType
from transformers_wallaroo.training.packing import fill_rows, sample_positions

from small import TASKS, build_small, collator_of, largest_difference, samples_of, step


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def question(*images, answer="a star"):
    messages = [
        {"role": "user", "content": "<image>" * len(images) + "what?"},
        {"role": "assistant", "content": answer},
    ]
    return {"task": "understand", "messages": messages, "images": list(images)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pack_length", [0, 200])
def test_packed_rows_learn_what_padded_rows_learn(small_model, small_processor, attention, pack_length):
    """Worst seen: 5e-7 of a loss, 3e-7 of the largest gradient."""
    small_model.set_attn_implementation(attention)
    samples = [*samples_of(*TASKS * 3), question(noise(32, 64), noise(64, 32, 1))]
    padded = collator_of(small_processor)(samples)
    packed = collator_of(small_processor, pack_length=pack_length)(samples)
    assert packed["input_ids"].shape[0] < padded["input_ids"].shape[0] == 10
    expected, expected_gradients = step(small_model, padded)
    losses, gradients = step(small_model, packed)
    assert set(losses) == {"understand_text", "generate_text", "generate_image", "edit_text", "edit_image"}
    assert losses == pytest.approx(expected, abs=2e-6)
    assert largest_difference(gradients, expected_gradients) < 2e-6


def test_packed_rows_without_their_positions_would_learn_something_else(small_model, small_processor):
    """The test above can fail: samples that see each other give other losses."""
    packed = collator_of(small_processor, pack_length=0)(samples_of(*TASKS))
    expected, _ = step(small_model, packed)
    packed["position_ids"] = packed["position_ids"].clone()
    packed["position_ids"][0] = torch.arange(packed["input_ids"].shape[1])
    losses, _ = step(small_model, packed)
    assert max(abs(losses[name] - expected[name]) for name in expected) > 1e-2


@pytest.mark.parametrize("source_positions", ["1d", "2d"])
@pytest.mark.parametrize(
    ("task", "pictures"), [("understand", 0), ("understand", 1), ("understand", 2), ("generate", 0), ("edit", 1)]
)
def test_positions_are_the_models_own(small_model, small_processor, task, pictures, source_positions):
    if task == "understand":
        sample = question(*[noise(32, 64), noise(64, 48, 1)][:pictures])
    else:
        [sample] = samples_of(task)
    small_model.config.source_positions = source_positions
    options = {"source_positions": source_positions}
    alone = collator_of(small_processor, **options)([sample])
    packed = collator_of(small_processor, pack_length=0, **options)([sample])
    expected, _ = small_model.model.get_rope_index(
        alone["input_ids"],
        alone["mm_token_type_ids"],
        image_grid_thw=alone.get("image_grid_thw"),
        attention_mask=alone["attention_mask"],
    )
    assert (alone["mm_token_type_ids"] == TokenType.IMAGE).any() == bool(pictures)
    assert torch.equal(packed["position_ids"][1:], expected)
    assert packed["position_ids"][0].tolist() == [list(range(expected.shape[-1]))]


def test_positions_start_again_with_each_sample(small_processor):
    samples = [question(noise(32, 64)), question(), *samples_of("edit", "generate")]
    collate = collator_of(small_processor, pack_length=0)
    packed = collate(samples)
    lengths = [len(collate.encode(sample).ids) for sample in samples]
    order = sorted(range(4), key=lambda index: -lengths[index])
    expected = [position for index in order for position in range(lengths[index])]
    assert packed["position_ids"][0].tolist() == [expected]
    starts = torch.nonzero(packed["position_ids"][0, 0] == 0).flatten().tolist()
    assert (packed["position_ids"][:, 0, starts] == 0).all()


def test_no_sample_sees_another(small_model, small_processor):
    """Other tokens in one sample leave the hidden states of the others as they are, to the last bit."""
    packed = collator_of(small_processor, pack_length=0)(samples_of(*TASKS * 2))
    small_model.eval()
    bounds = [*torch.nonzero(packed["position_ids"][0, 0] == 0).flatten().tolist(), packed["input_ids"].shape[1]]
    assert len(bounds) == 7
    target = packed.pop("target_pixel_values"), packed.pop("target_grid")
    codes, _ = small_model.model.encode_images(*target)
    is_code = packed["input_ids"] == small_model.config.generate_image_pad_token_id
    packed["input_ids"] = packed["input_ids"].masked_scatter(
        is_code, torch.cat(codes) + small_model.config.text_vocab_size
    )
    inputs = {name: value for name, value in packed.items() if name not in ("labels", "task_ids")}
    inputs["use_cache"] = False
    with torch.no_grad():
        before = small_model.model(**inputs).last_hidden_state
        for start, end in pairwise(bounds):
            changed = dict(inputs, input_ids=inputs["input_ids"].clone())
            is_text = (inputs["mm_token_type_ids"] == TokenType.TEXT) & (inputs["input_ids"] < 1000)
            is_text[:, :start], is_text[:, end:] = False, False
            changed["input_ids"][is_text] = (inputs["input_ids"][is_text] + 7) % 1000
            after = small_model.model(**changed).last_hidden_state
            moved = (after != before).any(dim=-1)[0]
            assert moved[start:end].any()
            assert not moved[:start].any()
            assert not moved[end:].any()


def test_padding_of_packed_rows_has_nothing_to_learn_and_is_seen_by_none(small_model, small_processor):
    batch = collator_of(small_processor, pack_length=200)(samples_of(*TASKS * 2))
    lengths = [int((row[1:] < row[:-1]).sum()) for row in batch["position_ids"][0]]
    assert len(lengths) > 1
    row, start = next(
        (row, int(torch.nonzero(positions == 0)[-1]))
        for row, positions in enumerate(batch["position_ids"][0])
        if (
            batch["input_ids"][row, int(torch.nonzero(positions == 0)[-1]) :] == small_processor.tokenizer.pad_token_id
        ).all()
    )
    assert (batch["labels"][row, start:] == -100).all()
    expected, _ = step(small_model, batch)
    batch["input_ids"][row, start:] = 5
    losses, _ = step(small_model, batch)
    assert losses == expected


def test_rows_are_no_longer_than_asked(small_processor):
    samples = samples_of(*TASKS * 6)
    collate = collator_of(small_processor)
    lengths = [len(collate.encode(sample).ids) for sample in samples]
    for pack_length in (max(lengths), 150, 400):
        packed = collator_of(small_processor, pack_length=pack_length)(samples)
        assert packed["input_ids"].shape[1] <= pack_length
        assert set(packed) >= {"input_ids", "labels", "mm_token_type_ids", "task_ids", "position_ids"}
        assert "attention_mask" not in packed
    one_row = collator_of(small_processor, pack_length=0)(samples)
    assert one_row["input_ids"].shape == (1, sum(lengths))
    longer = collator_of(small_processor, pack_length=max(lengths) - 1)(samples)
    assert longer["input_ids"].shape[1] == max(lengths)


@pytest.mark.parametrize("row_length", [1, 40, 64, 10_000])
def test_filled_rows_keep_each_sample_once(row_length):
    lengths = [random.Random(row_length).randint(1, 64) for _ in range(200)]
    rows = fill_rows(lengths, row_length)
    assert sorted(index for row in rows for index in row) == list(range(200))
    for row in rows:
        assert len(row) == 1 or sum(lengths[index] for index in row) <= row_length
    if row_length == 64:  # first fit decreasing stays within 11/9 of the least number of rows
        assert len(rows) <= 11 / 9 * (sum(lengths) / 64) + 1


def test_filled_rows_are_those_of_first_fit():
    assert fill_rows([3, 9, 4, 2, 6, 1], 10) == [[1, 5], [4, 2], [0, 3]]
    assert fill_rows([12, 3], 10) == [[0], [1]]
    assert fill_rows([], 10) == []


def test_positions_of_two_pictures_side_by_side():
    """A picture's features count in 2-D from where the text stood; the text goes on after its longer side."""
    types = np.array([0, 1, 1, 0, 0, 1, 1, 1, 1, 0])
    positions = sample_positions(types, [(1, 2, 4), (1, 4, 4)], 2)
    assert positions.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [0, 1, 1, 3, 4, 5, 5, 5, 5, 7],
        [0, 1, 1, 3, 4, 5, 5, 6, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 5, 6, 7],
    ]


def test_grids_of_more_pictures_than_samples_have_are_refused():
    with pytest.raises(ValueError, match="zip"):
        sample_positions(np.array([0, 1, 0]), [(1, 2, 2), (1, 2, 2)], 2)


def test_packing_works_with_an_untied_text_head(small_processor):
    model, _ = build_small(tied=False)
    samples = samples_of(*TASKS)
    expected, _ = step(model.train(), collator_of(small_processor)(samples))
    losses, gradients = step(model, collator_of(small_processor, pack_length=0)(samples))
    assert losses == pytest.approx(expected, abs=2e-6)
    assert gradients["lm_head.weight"].any()
