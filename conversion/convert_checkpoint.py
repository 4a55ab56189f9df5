# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Converts released Wallaroo files to a folder that `AutoModel.from_pretrained` loads.

    python conversion/convert_checkpoint.py --base Qwen2.5-VL-7B-Instruct --checkpoint wallaroo.ckpt \\
        --vq-checkpoint vq_ds16_t2i.pt --output wallaroo-7b --dtype bfloat16

The widths of adapters, heads and VQ tokenizer follow from the weights. Every key is accounted for: an unknown, missing
or misshaped one stops the conversion. Checkpoints of stages 1 to 3 get the parts of stage 4 newly initialised; say
`--stage` for them, so that the prompts are those of their training. The VQ
tokenizer stays in fp32 whatever the dtype. The output folder appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path

import torch

from wallaroo_checkpoints import (
    EDITING_PARTS,
    WALLAROO_KEYS,
    add_arguments,
    infer_mlp_sizes,
    infer_vq_config,
    load_pickled,
    make_config,
    make_generation_config,
    make_processor,
    read_base,
    rename_keys,
    run,
    state_dict_loaders,
    write_wallaroo,
)


def convert(
    base: str | Path,
    checkpoint: str | Path,
    vq_checkpoint: str | Path,
    output: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
    stage: str = "4",
) -> list[str]:
    """Converts, and returns a line for each dropped key and each newly initialised weight."""
    base_config = read_base(base)
    state, vq_state = load_pickled(checkpoint, "state_dict"), load_pickled(vq_checkpoint, "model")
    vq_config = infer_vq_config(vq_state)
    processor = make_processor(base, vq_config.downsample_factor, stage)
    config = make_config(base_config, vq_config, infer_mlp_sizes(state), processor.tokenizer)
    entries, _, unknown = rename_keys(state_dict_loaders(state), WALLAROO_KEYS)
    return write_wallaroo(
        output,
        config,
        processor,
        make_generation_config(base),
        entries,
        unknown,
        vq_state,
        may_miss=EDITING_PARTS,
        why="the checkpoint is of stage 1, 2 or 3",
        dtype=dtype,
        max_shard_size=max_shard_size,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", required=True, metavar="QWEN_DIR", help="folder of the Qwen2.5-VL it was trained from"
    )
    parser.add_argument("--checkpoint", required=True, metavar="X.ckpt", help="released training checkpoint")
    parser.add_argument("--vq-checkpoint", required=True, metavar="vq_ds16_t2i.pt", help="LlamaGen's VQ tokenizer")
    add_arguments(parser)
    return run(convert, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
