# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Makes a Wallaroo that is ready for stage 1 out of a Qwen2.5-VL folder and a VQ tokenizer.

    python conversion/init_from_qwen.py --base Qwen2.5-VL-3B-Instruct --vq-checkpoint vq_ds16_t2i.pt \\
        --stage 1 --output wallaroo-3b-stage0

Language model, vision tower and VQ tokenizer are taken over; the adapters and image heads are newly initialised, the
same each time. `--stage 1` makes the prompts those of stage 1. The output folder appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path

import torch

from wallaroo_checkpoints import (
    IMAGE_PARTS,
    QWEN_KEYS,
    add_arguments,
    infer_vq_config,
    load_pickled,
    make_config,
    make_generation_config,
    make_processor,
    read_base,
    rename_keys,
    run,
    safetensors_loaders,
    write_wallaroo,
)


def init_from_qwen(
    base: str | Path,
    vq_checkpoint: str | Path,
    output: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
    stage: str = "4",
) -> list[str]:
    """Builds the checkpoint, and returns a line for each dropped key and each newly initialised weight."""
    base_config, vq_state = read_base(base), load_pickled(vq_checkpoint, "model")
    vq_config = infer_vq_config(vq_state)
    processor = make_processor(base, vq_config.downsample_factor, stage)
    config = make_config(base_config, vq_config, {}, processor.tokenizer)
    entries, _, unknown = rename_keys(safetensors_loaders(base), QWEN_KEYS)
    return write_wallaroo(
        output,
        config,
        processor,
        make_generation_config(base),
        entries,
        unknown,
        vq_state,
        may_miss=IMAGE_PARTS,
        why="a plain Qwen2.5-VL has none",
        dtype=dtype,
        max_shard_size=max_shard_size,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="QWEN_DIR", help="Qwen2.5-VL folder, with its weights")
    parser.add_argument("--vq-checkpoint", required=True, metavar="vq_ds16_t2i.pt", help="LlamaGen's VQ tokenizer")
    add_arguments(parser)
    return run(init_from_qwen, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
