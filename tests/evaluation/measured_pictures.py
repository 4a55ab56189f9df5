# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`eval vq` and `eval fid` with sums of pictures in place of the Inception network, whose weights are not at hand.

As a program, for tests that kill it or start it twice: `python measured_pictures.py vq|fid PICTURES OUTPUT [resume]`.
"""

import json
import sys
import time
from pathlib import Path

import torch

from transformers_wallaroo.evaluation.reconstruction import compare_folders, evaluate_vq


def means(pictures):
    """In place of the Inception network: a mean, two corners, and logits."""
    values = pictures.double()
    return values.mean(dim=(2, 3)), values[:, :, 0, 0], values.mean(dim=(2, 3))


def slowly(pictures):
    time.sleep(0.05)
    return means(pictures)


def measure(kind, pictures, output, **options):
    """The report of a run."""
    options = {"extractor": means, "batch_size": 2, "device": "cpu", "show_progress": False, **options}
    if kind == "vq":
        return evaluate_vq(None, pictures, output, **options)
    return compare_folders(Path(pictures) / "more", pictures, output, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = measure(*sys.argv[1:4], resume="resume" in sys.argv[4:], extractor=slowly)
    sys.stdout.write(json.dumps(made["pictures"]) + "\n")
