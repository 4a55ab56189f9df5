# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Forwards an image with `speculative_window`, greedy and sampled, and the seconds it takes, on a trained model.

By default `wallaroo-tiny` draws the largest of its pictures from prompts of the shapes world. Greedy codes are compared
with plain decoding's, and the run stops where they differ. Plain and speculative decoding take turns.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import DTYPES, ratio, seconds_in_turns, write_figures

import transformers_wallaroo
from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.shapes import make_sample


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(transformers_wallaroo.tiny_path()), help="(default: wallaroo-tiny)")
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8, 16], help="(default: %(default)s)")
    parser.add_argument("--task", choices=("generate", "edit"), action="append", help="only this (default: both)")
    parser.add_argument("--images", type=int, default=32, help="different prompts (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=[64, 64], help="pixels, height and width")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def measure(task: str, sampled: bool, model: Any, processor: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one task, sampled or greedy."""
    height, width = options.size
    samples = [make_sample(task, index, 31, bucket=(height, width)) for index in range(options.images)]
    inputs = [
        processor(
            sample.get("source_image"), sample["prompt"], task=task, height=height, width=width, return_tensors="pt"
        ).to(model.device)
        for sample in samples
    ]

    def draw(window: int | None) -> list[Any]:
        return [
            model.generate(
                **each, do_sample=sampled, seed=index, speculative_window=window, return_dict_in_generate=True
            )
            for index, each in enumerate(inputs)
        ]

    names = {"plain": None, **{f"window {window}": window for window in options.windows}}
    outputs = {name: draw(window) for name, window in names.items()}
    for name, out in outputs.items() if not sampled else ():
        for one, other in zip(out, outputs["plain"], strict=True):
            if not torch.equal(one.sequences, other.sequences):
                raise RuntimeError(f"Greedy codes with {name} are not those of plain decoding.")
    times = seconds_in_turns(
        {name: lambda window=window: draw(window) for name, window in names.items()}, options.rounds
    )
    forwards = {name: statistics.mean(int(each.num_forwards[0]) for each in out) for name, out in outputs.items()}
    return {
        name: {
            "forwards": round(forwards[name], 2),
            "fewer": round(forwards["plain"] / forwards[name], 2),
            "seconds_per_image": round(statistics.median(times[name]) / len(inputs), 4),
            "faster": ratio(times, "plain", name),
        }
        for name in names
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    model = WallarooForConditionalGeneration.from_pretrained(options.checkpoint, dtype=DTYPES[options.precision])
    model.to(options.device).eval().optimize()
    processor = WallarooProcessor.from_pretrained(options.checkpoint)
    found: dict[str, Any] = {}
    for task in options.task or ("generate", "edit"):
        for sampled in (False, True):
            name = f"{task}, {'sampled' if sampled else 'greedy'}"
            found[name] = measure(task, sampled, model, processor, options)
            sys.stdout.write(f"\n{name}\n{'':12} {'forwards':>9} {'fewer':>7} {'s/image':>9} {'faster':>7}\n")
            for variant, row in found[name].items():
                sys.stdout.write(
                    f"{variant:12} {row['forwards']:9.2f} {row['fewer']:7.2f} {row['seconds_per_image']:9.4f} "
                    f"{row['faster']:7.2f}\n"
                )
    figures = {"figures": found}
    return write_figures(options, figures, without=("checkpoint",))


if __name__ == "__main__":
    main()
