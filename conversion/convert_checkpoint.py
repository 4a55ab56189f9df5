# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Converts released Wallaroo files to a folder that `AutoModel.from_pretrained` loads.

    python conversion/convert_checkpoint.py --base Qwen2.5-VL-7B-Instruct --checkpoint wallaroo.ckpt \\
        --vq-checkpoint vq_ds16_t2i.pt --output wallaroo-7b --dtype bfloat16

The widths of adapters, heads and VQ tokenizer follow from the weights. Every key is accounted for: an unknown, missing
or misshaped one stops the conversion. Checkpoints of stages 1 to 3 get the parts of stage 4 newly initialised. The VQ
tokenizer stays in fp32 whatever the dtype. The output folder appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path

import torch
from wallaroo_checkpoints import (
    EDITING_PARTS,
    VQ,
    WALLAROO_KEYS,
    CheckpointError,
    check_keys,
    drop_tied_head,
    expected_shapes,
    fresh_weight,
    infer_mlp_sizes,
    infer_vq_config,
    load_pickled,
    make_config,
    make_generation_config,
    make_processor,
    parse_dtype,
    push,
    read_base,
    rename_keys,
    save_code_and_configs,
    state_dict_loaders,
    vq_entries,
    whole_folder,
    write_shards,
)


def convert(
    base: str | Path,
    checkpoint: str | Path,
    vq_checkpoint: str | Path,
    output: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
) -> list[str]:
    """Converts, and returns what a user should know: dropped keys and newly initialised parts, a line each."""
    base_config = read_base(base)
    state, vq_state = load_pickled(checkpoint, "state_dict"), load_pickled(vq_checkpoint, "model")
    vq_config = infer_vq_config(vq_state)
    processor = make_processor(base, downsample_factor=vq_config.downsample_factor)
    config = make_config(base_config, vq_config, infer_mlp_sizes(state), processor.tokenizer)
    config.dtype = dtype
    entries, dropped, unknown = rename_keys(state_dict_loaders(state), WALLAROO_KEYS)
    vq, vq_dropped, vq_unknown = vq_entries(vq_state)
    entries.update(vq)
    drop_tied_head(entries, config)
    expected = expected_shapes(config)
    fresh = check_keys(entries, expected, unknown + vq_unknown, may_miss=EDITING_PARTS)
    std = config.text_config.initializer_range
    for key in fresh:
        entries[key] = (lambda key=key: fresh_weight(key, expected[key], std)), expected[key]
    with whole_folder(output, config.model_type) as folder:
        save_code_and_configs(folder, config, processor, make_generation_config(base))
        write_shards(
            folder,
            {key: entries[key] for key in expected},
            lambda key: torch.float32 if key.startswith(VQ) else dtype,
            max_shard_size,
        )
    report = [f"dropped {key}" for key in dropped + vq_dropped]
    report += [f"newly initialised {key} (the checkpoint is of stage 1, 2 or 3)" for key in fresh]
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="QWEN_DIR", help="folder of the Qwen2.5-VL it was trained from")
    parser.add_argument("--checkpoint", required=True, metavar="X.ckpt", help="released training checkpoint")
    parser.add_argument("--vq-checkpoint", required=True, metavar="vq_ds16_t2i.pt", help="LlamaGen's VQ tokenizer")
    parser.add_argument("--output", required=True, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"), help="of all but the VQ tokenizer"
    )
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights; also bounds the memory used")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this Hub repository")
    options = parser.parse_args(arguments)
    try:
        report = convert(
            options.base,
            options.checkpoint,
            options.vq_checkpoint,
            options.output,
            parse_dtype(options.dtype),
            options.max_shard_size,
        )
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("\n".join([*report, f"wrote {options.output}"]) + "\n")
    if options.push_to_hub:
        push(options.output, options.push_to_hub)
        sys.stdout.write(f"pushed to {options.push_to_hub}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
