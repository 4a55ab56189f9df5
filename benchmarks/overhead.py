# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Milliseconds of a decode step that are not arithmetic: 28 layers of tiny width, where nearly all of it is launching.

*janus* is transformers' Janus, eager and with its language model compiled (`torch.compile`, static cache); ours are
eager and compiled, after `model.optimize()`. Guidance 3. They take turns; a figure is the median over the rounds.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import DTYPES, make_inputs, make_model, ratio, seconds_in_turns, write_figures
from decode import draw_with_janus, make_janus

WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 28,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "vocab_size": 1024,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=12, help="rows and columns of codes (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=WIDTH["num_hidden_layers"], help="(default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--without", action="append", default=[], help="a variant to leave out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    dimensions, dtype = {**WIDTH, "num_hidden_layers": options.layers}, DTYPES[options.precision]
    model = make_model(dimensions, 64, dtype, device=options.device).optimize()
    inputs = make_inputs(model, 1, (options.side, options.side), options.prompt)
    janus, janus_compiled = (make_janus(dimensions, options.side, dtype, options.device, 64) for _ in range(2))
    if "janus compiled" not in options.without:
        janus_compiled.model.language_model.compile()
    variants = {
        "janus": draw_with_janus(janus, options.prompt, 3.0),
        "janus compiled": draw_with_janus(janus_compiled, options.prompt, 3.0),
        "plain": lambda: model.generate(**inputs, seed=0, decoder="plain"),
        "eager": lambda: model.generate(**inputs, seed=0, decoder="static"),
        "compiled": lambda: model.generate(**inputs, seed=0, decoder="compiled"),
    }
    variants = {name: run for name, run in variants.items() if name not in options.without}
    times = seconds_in_turns(variants, options.rounds, warm_up=2)
    steps = options.side**2
    figures = {name: round(1e3 * statistics.median(each) / steps, 3) for name, each in times.items()}
    shares = {
        f"{name}_over_{peer}": round(1 / ratio(times, peer, name), 3)
        for name in ("eager", "compiled")
        for peer in ("janus", "janus compiled")
        if name in times and peer in times
    }
    for name, value in figures.items():
        sys.stdout.write(f"{name:16} {value:8.3f} ms a step\n")
    for name, value in shares.items():
        sys.stdout.write(f"{name:30} {value:6.3f} of the time\n")
    figures = {
        "ms_per_step": figures,
        "shares": shares,
    }
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
