# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of `generate` by the number of images and their size, above that of the weights.

On a GPU it is the allocator's own peak; on a CPU that of the tensors, by torch's profiler. The model is that of
`decode.py`. `KV cache` is what the keys and values of the largest step take, which no loop can do without.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import DIMENSIONS, DTYPES, about, make_inputs, make_model, peak_bytes, write_json


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 8], help="how many at once")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16], help="rows and columns of codes")
    parser.add_argument("--decoder", action="append", help="plain, static, ... (default: plain and static)")
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="(default: %(default)s)")
    parser.add_argument("--layers", type=int, default=DIMENSIONS["num_hidden_layers"], help="(default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=DIMENSIONS["vocab_size"], help="(default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    dtype, device = DTYPES[options.precision], torch.device(options.device)
    dimensions = {**DIMENSIONS, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    model = make_model(dimensions, 16384, dtype, device=device)
    config = model.config.text_config
    head_dim = config.hidden_size // config.num_attention_heads
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize
    weights = sum(parameter.nbytes for parameter in model.parameters())
    decoders = options.decoder or ["plain", "static"]
    rows = []
    sys.stdout.write(f"weights {weights / 2**20:.1f} MB\n{'images':>7} {'codes':>9} {'KV cache':>12}")
    sys.stdout.write("".join(f"{decoder:>14}" for decoder in decoders) + "\n")
    for side in options.sides:
        for images in options.images:
            inputs = make_inputs(model, images, (side, side), options.prompt)
            row = {"images": images, "side": side, "kv_mb": 2 * images * slot * (options.prompt + side * (side + 1))}
            for decoder in decoders:
                row[decoder] = peak_bytes(
                    lambda inputs=inputs, decoder=decoder: model.generate(**inputs, seed=0, decoder=decoder), device
                )
            row = {
                name: round(value / 2**20, 1) if name not in ("images", "side") else value
                for name, value in row.items()
            }
            rows.append(row)
            sys.stdout.write(f"{images:7} {side:4} x {side:2} {row['kv_mb']:9.1f} MB")
            sys.stdout.write("".join(f"{row[decoder]:11.1f} MB" for decoder in decoders) + "\n")
    result = {
        "weights_mb": round(weights / 2**20, 1),
        "peaks_mb": rows,
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        **about(options.device),
    }
    write_json(options.json, result)
    return result


if __name__ == "__main__":
    main()
