# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Wallaroo as a model of VLMEvalKit, without a change to the kit.

    python examples/vlmevalkit/wallaroo_vlm.py path/to/VLMEvalKit/run.py \
        --wallaroo wallaroo-7b --data POPE MME MMBench_DEV_EN --work-dir outputs

The first argument is the kit's own `run.py`, `--wallaroo` a checkpoint (the embedded `wallaroo-tiny` without it), the
rest goes to the kit; the model is called `wallaroo` there. Under `torchrun` the kit shards by itself.
From a program of yours: `register("wallaroo-7b")`, and then whatever the kit offers.
"""

import argparse
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

from vlmeval.config import supported_VLM
from vlmeval.vlm.base import BaseModel

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation.answering import Question, TextSettings, answer_all

NAME = "wallaroo"


class Wallaroo(BaseModel):
    """Answers the kit's messages: texts and pictures, in their order.

    Args:
        checkpoint: folder or Hub name; the embedded one by default.
        device: a GPU by default where there is one.
        max_new_tokens: longest answer.
        min_pixels, max_pixels: fewest and most pixels in which a picture is seen; by default the checkpoint's.
    """

    INSTALL_REQ = False
    INTERLEAVE = True  # the kit then sends all pictures, where they stand

    def __init__(
        self,
        checkpoint: str | None = None,
        device: str | None = None,
        max_new_tokens: int = 1024,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        **_: Any,
    ):
        self.model, self.processor = load_checkpoint(checkpoint, device=device)
        sees = self.processor.image_processor
        limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        sees.size = {**dict(sees.size), **{name: pixels for name, pixels in limits.items() if pixels is not None}}
        self.settings = TextSettings(max_new_tokens=max_new_tokens)

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The greedy answer to `{"type": "text" or "image", "value": text or path}` parts."""
        parts = [
            {"type": "text", "text": part["value"]}
            if part["type"] == "text"
            else {"type": part["type"], "url": part["value"]}
            for part in message
        ]
        question = Question(dataset or NAME, [{"role": "user", "content": parts}], self.settings)
        return answer_all(self.model, self.processor, [question])[0].text


def register(checkpoint: str | None = None, name: str = NAME, **options: Any) -> None:
    """Makes the checkpoint known to the kit under this name, for this process."""
    supported_VLM[name] = partial(Wallaroo, checkpoint=checkpoint, **options)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run.py of a clone of VLMEvalKit")
    parser.add_argument("--wallaroo", metavar="CHECKPOINT", help="folder or Hub name; the embedded one by default")
    known, rest = parser.parse_known_args(arguments)
    if not known.run.is_file():
        parser.error(f"`run` must be the kit's run.py, but there is no file {known.run}.")
    register(known.wallaroo)
    sys.argv = [str(known.run), "--model", NAME, *rest]
    runpy.run_path(str(known.run), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
