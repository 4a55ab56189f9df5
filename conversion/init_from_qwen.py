# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Makes a Wallaroo that is ready for stage 1 out of a Qwen2.5-VL folder and a VQ tokenizer.

    python conversion/init_from_qwen.py --base Qwen2.5-VL-3B-Instruct --vq-checkpoint vq_ds16_t2i.pt \\
        --stage 1 --output wallaroo-3b-stage0

Language model, vision tower and VQ tokenizer are taken over; the adapters and image heads are newly initialised, the
same each time. `--stage 1` makes the prompts those of stage 1. The output folder appears whole or not at all.
"""

import argparse
import sys

from transformers_wallaroo.conversion import init_from_qwen

from conversion_commands import add_arguments, run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="QWEN_DIR", help="Qwen2.5-VL folder, with its weights")
    parser.add_argument("--vq-checkpoint", required=True, metavar="vq_ds16_t2i.pt", help="LlamaGen's VQ tokenizer")
    add_arguments(parser)
    return run(init_from_qwen, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
