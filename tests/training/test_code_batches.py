# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples with codes and latents in place of pictures: the same losses and gradients, in any mixture of both."""

import pytest
import torch

from small import collator_of, largest_difference, samples_of, step


def cached(model, processor, sample):
    """The sample with what the VQ tokenizer makes of its pictures."""
    size = [(sample["height"], sample["width"])]
    encode = processor.image_processor.preprocess_cells

    def encoded(picture):
        pixels, _ = encode([picture], size)
        return model.model.vq_model.encode(torch.from_numpy(pixels))

    values = {**sample, "codes": encoded(sample["image"]).codes[0].numpy()}
    values.pop("image")
    if sample["task"] == "edit":
        black = sample["source_image"].copy()
        black.paste((0, 0, 0), (0, 0, *black.size))
        for name, picture in (("source_latents", sample["source_image"]), ("black_latents", black)):
            values[name] = encoded(picture).latents[0].flatten(0, 1).numpy()
    return values


SAMPLES = samples_of("generate", "edit", "understand", "generate", "edit", "edit", "generate")


@pytest.mark.parametrize("pack_length", [None, 0])
@pytest.mark.parametrize("unconditional", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chosen", [(0,), (0, 1, 3, 4, 5, 6)], ids=["some", "all"])
def test_codes_teach_what_pixels_teach(small_model, small_processor, chosen, unconditional, pack_length):
    """Worst seen: 3e-7 of a loss, 4e-7 of the largest gradient."""
    options = {"unconditional_probability": unconditional, "pack_length": pack_length}
    collate = collator_of(small_processor, code_offset=small_model.config.text_vocab_size, **options)
    samples = [
        cached(small_model, small_processor, sample) if index in chosen else sample
        for index, sample in enumerate(SAMPLES)
    ]
    expected, expected_gradients = step(small_model, collate(SAMPLES))
    batch = collate(samples)
    losses, gradients = step(small_model, batch)
    assert len(losses) == 5
    assert losses == pytest.approx(expected, rel=1e-6)
    assert largest_difference(gradients, expected_gradients) < 2e-6
    assert ("target_pixel_values" in batch) == (len(chosen) == 1)
    assert ("source_latents" in batch) == (len(chosen) > 1)


def test_other_codes_teach_something_else(small_model, small_processor):
    sample = cached(small_model, small_processor, SAMPLES[0])
    collate = collator_of(small_processor, code_offset=small_model.config.text_vocab_size)
    expected, _ = step(small_model, collate([sample]))
    losses, _ = step(small_model, collate([{**sample, "codes": (sample["codes"] + 1) % 64}]))
    assert losses["generate_image"] != expected["generate_image"]
    assert losses.keys() == expected.keys()


def test_edits_with_and_without_latents_do_not_mix(small_model, small_processor):
    samples = [cached(small_model, small_processor, SAMPLES[1]), SAMPLES[4]]
    collate = collator_of(small_processor, code_offset=small_model.config.text_vocab_size)
    with pytest.raises(ValueError, match="`samples` has 2 edits, but only 1 of them with `source_latents`"):
        collate(samples)


def test_what_cached_samples_need_is_asked_for(small_model, small_processor):
    edit = cached(small_model, small_processor, SAMPLES[1])
    offset = small_model.config.text_vocab_size
    with pytest.raises(ValueError, match="Sample 0: it has `codes`, so the collator needs `code_offset`"):
        collator_of(small_processor)([edit])
    without = {name: value for name, value in edit.items() if name != "black_latents"}
    with pytest.raises(ValueError, match="Sample 0: it has `source_latents` but no 'black_latents'"):
        collator_of(small_processor, code_offset=offset, unconditional_probability=1)([without])
    with pytest.raises(
        ValueError, match=r"`codes` is a grid of \(\d, \d\), an image of \(\d+, \d+\) pixels, but `height`"
    ):
        collator_of(small_processor, code_offset=offset)([{**edit, "height": 16}])
    with pytest.raises(ValueError, match="the task 'generate' takes no 'source_latents'; is it an edit"):
        collator_of(small_processor, code_offset=offset)([{**SAMPLES[0], "source_latents": edit["source_latents"]}])
