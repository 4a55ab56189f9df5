# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Writes the understanding half of a Wallaroo as a plain Qwen2.5-VL folder, for stock transformers and vLLM.

    python conversion/export_qwen.py --checkpoint wallaroo-7b --output wallaroo-7b-understanding

The VQ tokenizer, the adapters and the image heads stay behind. Weights keep their dtype, in the names of the Hub. The
tokenizer keeps Wallaroo's added tokens, which the embedding table has rows for and which answers do not use.
"""

import argparse
import sys

from transformers_wallaroo.conversion import export_qwen

from conversion_commands import add_arguments, run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", required=True, metavar="WALLAROO_DIR", help="Wallaroo folder, as converted or trained"
    )
    add_arguments(parser, writes_wallaroo=False)
    return run(export_qwen, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
