# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of `generate` by the number of images and their size, above that of the weights.

On a GPU it is the allocator's own peak; on a CPU that of the tensors, by torch's profiler. The model is that of
`decode.py`. `KV cache` is what the keys and values of the largest step take, which no loop can do without.

Then the same of decoding one picture by a VQ tokenizer of the released sizes: as a whole, and in strips (`strip_rows`).
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import DIMENSIONS, DTYPES, make_inputs, make_model, peak_bytes, write_figures

from transformers_wallaroo import WallarooVQConfig, WallarooVQModel


def measure_strips(options: argparse.Namespace) -> list[dict[str, float]]:
    """Peaks of decoding one picture of each size, in MB."""
    device = torch.device(options.device)
    with device:
        vq_model = WallarooVQModel(WallarooVQConfig()).eval()
    sys.stdout.write(f"\nVQ decoding of one picture\n{'codes':>9} {'whole':>10} {'in strips':>12}\n")
    rows = []
    for side in options.sides:
        codes = torch.zeros(1, side, side, dtype=torch.long, device=device)
        whole, strips = (
            peak_bytes(lambda codes=codes, count=count: vq_model.decode(codes, strip_rows=count), device) / 2**20
            for count in (None, options.strip_rows)
        )
        rows.append({"side": side, "whole": round(whole, 1), "strips": round(strips, 1)})
        sys.stdout.write(f"{side:4} x {side:2} {whole:7.1f} MB {strips:9.1f} MB\n")
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 8], help="how many at once")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16], help="rows and columns of codes")
    parser.add_argument("--strip-rows", type=int, default=32, help="(default: %(default)s)")
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
    figures = {
        "weights_mb": round(weights / 2**20, 1),
        "peaks_mb": rows,
        "vq_peaks_mb": measure_strips(options),
    }
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
