# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The real 7B config with random bfloat16 weights made on the GPU (nothing is downloaded): drawing and editing.

For batches of 1, 8 and 32 images of 512 x 512 pixels under guidance 3: seconds an image, codes a second, milliseconds a
step, and the share of the floor, which is the time to read the weights and the cache that a step touches at the memory
bandwidth measured in the same run. It runs by itself on any machine with CUDA, torch and transformers:

    python benchmarks/gpu_7b.py --json gpu.json
    python benchmarks/gpu_7b.py --batch 1 --decoder compiled --side 16     # a quick one
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import about, make_inputs, make_model, ratio, read_bandwidth, seconds_in_turns, write_figures
from decode import bytes_a_step

from transformers_wallaroo.configuration_wallaroo import QWEN_7B_TEXT, QWEN_7B_VISION

TEXT_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="images at once")
    parser.add_argument("--task", choices=("generate", "edit"), action="append", help="only this (default: both)")
    parser.add_argument("--decoder", action="append", help="static, graphs, compiled (default: graphs and compiled)")
    parser.add_argument("--side", type=int, default=32, help="rows and columns of codes (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=28, help="(default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. `decode.py` measures a small model on a CPU.")
    write = sys.stdout.write
    text = {**{name: QWEN_7B_TEXT[name] for name in TEXT_KEYS}, "num_hidden_layers": options.layers}
    vision = {name: value for name, value in QWEN_7B_VISION.items() if name != "out_hidden_size"}
    # The VQ tokenizer of the released model: the config's own defaults.
    vq = {"base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2, "latent_channels": 256}
    model = make_model(text, 16384, torch.bfloat16, device=options.device, vision=vision, vq=vq).optimize()
    bandwidth = read_bandwidth(torch.device(options.device), 8192 if options.device != "cpu" else 512)
    decoders = options.decoder or ["graphs", "compiled"]
    grid, num_codes = (options.side, options.side), options.side**2
    rows = []
    write(f"{about(options.device)['machine']}, {bandwidth / 1e12:.2f} TB/s\n")
    write(f"{'task':9} {'decoder':9} {'images':>7} {'s/image':>9} {'codes/s':>9} {'ms/step':>8} {'of the floor':>13} ")
    write(f"{'over one':>9}\n")
    for task in options.task or ("generate", "edit"):
        inputs = {
            images: make_inputs(model, images, grid, options.prompt, edit=task == "edit") for images in options.batch
        }
        for decoder in decoders:
            times = seconds_in_turns(
                {
                    str(images): lambda each=each, decoder=decoder: model.generate(**each, seed=0, decoder=decoder)
                    for images, each in inputs.items()
                },
                options.rounds,
            )
            for images, each in inputs.items():
                seconds = statistics.median(times[str(images)])
                length = each["input_ids"].shape[1]
                weights = bytes_a_step(model, 0, 0)
                cache = images * (bytes_a_step(model, length, num_codes) - weights)
                floor = (weights + cache) / bandwidth
                row = {
                    "task": task,
                    "decoder": decoder,
                    "images": images,
                    "seconds_per_image": round(seconds / images, 3),
                    "codes_per_second": round(images * num_codes / seconds, 1),
                    "ms_per_step": round(1e3 * seconds / num_codes, 3),
                    "floor_share": round(num_codes * floor / seconds, 3),
                    "over_the_first": round(
                        images / options.batch[0] * ratio(times, str(options.batch[0]), str(images)), 2
                    ),
                }
                rows.append(row)
                write(
                    f"{task:9} {decoder:9} {images:7} {row['seconds_per_image']:9.3f} {row['codes_per_second']:9.1f} "
                    f"{row['ms_per_step']:8.3f} {row['floor_share']:13.3f} {row['over_the_first']:9.2f}\n"
                )
    figures = {
        "figures": rows,
        "bandwidth_tb_per_second": round(bandwidth / 1e12, 3),
    }
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
