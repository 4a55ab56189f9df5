# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Trains `wallaroo-tiny` from nothing: VQ tokenizer, understanding model, stages 1 to 4, the choice of head.

`make tiny` runs it.

Stopped at any point, it goes on from there when it is started again.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

import torch
from transformers.utils import logging

from transformers_wallaroo import WallarooVQModel
from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig
from transformers_wallaroo.training.tiny import build_tiny
from transformers_wallaroo.training.vq import train_vq
from transformers_wallaroo.training.vq_data import VQTrainingConfig

RECIPES = Path(__file__).parent / "recipes" / "tiny"
STAGES = (
    "base-1",
    "base-2",
    "base-3",
    "stage-1",
    "stage-2-grid",
    "stage-2",
    "stage-3a",
    "stage-3b",
    "stage-4-copy",
    "stage-4-changes",
    "stage-4",
    "stage-4-auto",
)

# Its messages are warnings, for those alone are shown of a logger that is not transformers' own.
logger = logging.get_logger("transformers_wallaroo.train_tiny")


def save_first_weights(root: Path, seed: int) -> None:
    """Writes the untrained model to the folder `init`, whole or not at all."""
    model, processor = build_tiny(WallarooVQModel.from_pretrained(root / "vq").config, seed=seed)
    partial = root / "init.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.rename(root / "init")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/tiny", help="folder of all runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights (default: %(default)s)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to train")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_info()
    torch.set_num_threads(options.threads)
    # The recipes name their folders from here.
    root = Path(options.output).resolve()
    started = time.monotonic()
    # The weights are what is written last.
    if not all((root / "vq" / name).is_file() for name in ("config.json", "model.safetensors")):
        train_vq(VQTrainingConfig.from_yaml(RECIPES / "vq.yaml"), output_dir=str(root / "vq"))
    if not (root / "init").is_dir():
        save_first_weights(root, options.seed)
    for stage in STAGES[: STAGES.index(options.until) + 1]:
        config = StageConfig.load(RECIPES / f"{stage}.yaml")
        for name in ("init", "output", "vq_model"):
            value = getattr(config, name)
            if value is not None:
                setattr(config, name, str(root / Path(value).relative_to("runs/tiny")))
        final = run_stage(config)
        logger.warning(f"{stage} is done after {(time.monotonic() - started) / 60:.0f} minutes: {final}")
    if options.until == STAGES[-1]:
        logger.warning(f"To put it into the package: python examples/package_tiny.py {final}")


if __name__ == "__main__":
    main()
