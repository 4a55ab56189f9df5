# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""No step holds logits of positions that have no label."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from small import TASKS, build_small, collator_of, samples_of

VOCABULARY, CODEBOOK = 20_000, 4096


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operation makes, forward or backward."""

    def __init__(self):
        super().__init__()
        self.numel, self.shape = 0, ()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.numel:
                self.numel, self.shape = tensor.numel(), tuple(tensor.shape)
        return result


@pytest.fixture(scope="module")
def large():
    """A model with many words and codes, and its processor."""
    model, processor = build_small(text={"vocab_size": VOCABULARY}, vq={"num_embeddings": CODEBOOK})
    return model.train(), processor


def batch_of(processor, **options):
    return collator_of(processor, **options)(samples_of(*TASKS * 4, bucket=(64, 64)))


@pytest.mark.parametrize("pack_length", [None, 0])
def test_no_tensor_is_as_large_as_the_logits_of_all_positions(large, pack_length):
    """Nor as large as those of the smaller vocabulary, the codes. The largest is the gradient of the embeddings."""
    model, processor = large
    batch = batch_of(processor, pack_length=pack_length)
    positions = batch["input_ids"].numel()
    with LargestTensor() as largest:
        model(**batch).loss.backward()
    assert largest.numel < positions * CODEBOOK
    assert largest.numel <= VOCABULARY * 64, largest.shape
    labelled = int((batch["labels"][:, 1:] != -100).sum())
    assert labelled < positions / 3


@pytest.mark.parametrize("head", ["lm_head", "generation_head"])
def test_watcher_sees_the_logits_of_all_positions(large, head):
    """The test above can fail: a step as it is usually written, in the same watcher."""
    model, processor = large
    batch = batch_of(processor)
    grids = batch.pop("target_pixel_values"), batch.pop("target_grid")
    batch["input_ids"], labels = model._fill_in_codes(
        batch["input_ids"], batch.pop("labels"), batch["mm_token_type_ids"], *grids
    )
    batch.pop("task_ids")
    with LargestTensor() as largest:
        logits = getattr(model, head)(model.model(**batch).last_hidden_state)
        targets = labels.masked_fill(labels >= logits.shape[-1], -100)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    assert largest.numel == math.prod(labels.shape) * (VOCABULARY if head == "lm_head" else CODEBOOK)


def test_watcher_sees_what_only_the_backward_pass_makes():
    weight = torch.ones(10, requires_grad=True)
    with LargestTensor() as largest:
        loss = weight.sum()
    assert largest.numel == 1
    with largest:
        loss.backward()
    assert largest.numel == 10
