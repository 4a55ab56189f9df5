# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Released Wallaroo files into a folder that `AutoModel.from_pretrained` loads."""

from pathlib import Path

import torch

from .configs import infer_mlp_sizes, infer_vq_config, make_config, make_generation_config, make_processor
from .keys import EDITING_PARTS, WALLAROO_KEYS, rename_keys
from .reading import load_pickled, read_base, state_dict_loaders
from .writing import write_wallaroo


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
