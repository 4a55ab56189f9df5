"""Requests for images that tests of decoding share."""

import torch

from reference import GUIDED_LOGITS, assert_close, images

PROMPTS = ["a red fox", "two blue cubes on a table under the window", "一只猫"]
SIZES = [(32, 48), (64, 32), (48, 48)]
SOURCES = ["edit_source_0.png", "edit_source_1.png", "understand.png"]
TASKS = ["generate", "edit"]


def prepare(processor, task, indices, **kwargs):
    """Inputs of some of PROMPTS; several at once have different lengths, sizes and sources."""
    if task == "edit":
        kwargs["images"] = [images(SOURCES[index]) for index in indices]
    return processor(
        text=[PROMPTS[index] for index in indices],
        task=task,
        height=[SIZES[index][0] for index in indices],
        width=[SIZES[index][1] for index in indices],
        return_tensors="pt",
        **kwargs,
    )


def prepare_mixed(processor):
    """All of PROMPTS in one batch: a picture to draw between two to edit, of three sizes."""
    tasks = ["edit", "generate", "edit"]
    pictures = [images(source) if task == "edit" else None for source, task in zip(SOURCES, tasks, strict=True)]
    heights, widths = zip(*SIZES, strict=True)
    return processor(pictures, PROMPTS, task=tasks, height=heights, width=widths, return_tensors="pt")


def run(model, inputs, **kwargs):
    return model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **kwargs)


def assert_same(one, other, exactly=False):
    """Codes are equal, and logits but for rounding."""
    for index, (codes, others) in enumerate(zip(one.codes, other.codes, strict=True)):
        assert torch.equal(codes, others)
        for step in range(codes.numel()):
            assert_close(one.logits[step][index], other.logits[step][index], 0 if exactly else GUIDED_LOGITS)


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.values, self.ended = [], False

    def put(self, value):
        self.values.append(value)

    def end(self):
        self.ended = True
