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

from transformers_wallaroo.conversion import convert

from conversion_commands import add_arguments, run


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
