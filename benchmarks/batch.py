# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Images a second by how many are made at once: one call of `generate` each, default decoder, guidance 3.

The prompts differ, the size is one. The numbers of images take turns; a figure is the median over the rounds.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import DIMENSIONS, DTYPES, make_inputs, make_model, ratio, seconds_in_turns, write_figures


def measure(precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one precision."""
    dimensions = {**DIMENSIONS, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    model = make_model(dimensions, 16384, DTYPES[precision], device=options.device).optimize()
    grid = (options.side, options.side)

    def drawing(count: int) -> Any:
        inputs = make_inputs(model, count, grid, options.prompt)
        return lambda: model.generate(**inputs, seed=0, guidance_scale=3.0)

    times = seconds_in_turns({str(count): drawing(count) for count in options.images}, options.rounds)
    one = str(options.images[0])
    return {
        "images_per_second": {name: round(int(name) / statistics.median(each), 4) for name, each in times.items()},
        "over_the_first": {name: round(int(name) / int(one) * ratio(times, one, name), 3) for name in times},
        "seconds": {name: [round(value, 3) for value in each] for name, each in times.items()},
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32] if on_gpu else [1, 2, 4, 8, 16],
        help="how many at once (default: %(default)s)",
    )
    parser.add_argument("--precision", choices=DTYPES, action="append", help="only these (default: both)")
    parser.add_argument("--side", type=int, default=16, help="rows and columns of codes (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=DIMENSIONS["num_hidden_layers"], help="(default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=DIMENSIONS["vocab_size"], help="(default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    found = {precision: measure(precision, options) for precision in options.precision or DTYPES}
    for precision, figures in found.items():
        sys.stdout.write(f"\n{precision}\n{'images':>8} {'images/s':>10} {'over the first':>15}\n")
        for name, speed in figures["images_per_second"].items():
            sys.stdout.write(f"{name:>8} {speed:10.3f} {figures['over_the_first'][name]:15.2f}\n")
    figures = {"figures": found}
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
