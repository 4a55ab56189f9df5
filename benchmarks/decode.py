# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Codes a second of our decode loop, beside transformers' Janus and the costs of the released loop, in one run.

All have a language model of the same size (hidden 512, 8 layers, 8 heads on 2 key heads, intermediate 1408,
vocabulary 152 064), a codebook of 16 384 and random weights, and sample an image of 16 x 16 codes under guidance 3 with
top-k 1000.

- *janus*: `JanusForConditionalGeneration.generate(generation_mode="image")` of transformers, as it is. Its images have
  no row ends, so that it makes 256 positions where the others make 271.
- *released*: the released loop's costs, told anew (docs/protocol.md, section 13): at every step the text head over the
  whole vocabulary beside the image head, a cache that is concatenated, and a forward of its own for each row end.
- *plain*: ours by transformers' forward and cache. *eager*: the lean step, the default on a CPU. *fused*: after
  `model.optimize()`. *graphs*, on a GPU: the same as CUDA graphs, the default there. *compiled*: by torch.compile, on a
  GPU as graphs too. *speculative*: `speculative_window=16`, which random weights give little to guess by; see
  `speculative.py` for a trained model.

They take turns, image by image; a figure is the median over the rounds. The floor is the time it takes to read the
weights and the cache that a step touches at the memory bandwidth measured in the same run.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from common import (
    DIMENSIONS,
    DTYPES,
    make_inputs,
    make_model,
    ratio,
    read_bandwidth,
    seconds_in_turns,
    write_figures,
)
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig
from transformers.models.janus import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
)

from transformers_wallaroo.decode_step_wallaroo import guide
from transformers_wallaroo.decoding_wallaroo import sample_codes
from transformers_wallaroo.image_grid_wallaroo import GENERATE

CODEBOOK = 16384
OURS = ("plain", "eager", "fused", "graphs", "compiled", "speculative")


def make_janus(
    dimensions: Mapping[str, int], side: int, dtype: torch.dtype, device: str, num_embeddings: int = CODEBOOK
) -> Any:
    """Janus with a language model and image heads of our size, and small networks for pictures."""
    width = dimensions["hidden_size"]
    config = JanusConfig(
        text_config=LlamaConfig(**dimensions, max_position_embeddings=4096, rms_norm_eps=1e-6),
        vision_config=JanusVisionConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=width,
            image_size=32,
            num_image_tokens=side**2,
        ),
        vq_config=JanusVQVAEConfig(
            num_embeddings=num_embeddings,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latent_channels=32,
            num_patches=side,
            projection_dim=width,
            image_token_embed_dim=width,
        ),
    )
    torch.manual_seed(0)
    model = JanusForConditionalGeneration(config).to(device, dtype).eval()
    model.generation_config.generation_kwargs = {"boi_token_id": 5}
    model.generation_config.bos_token_id, model.generation_config.pad_token_id = 6, 7
    return model


def draw_with_janus(model: Any, prompt_length: int, guidance_scale: float) -> Callable[[], Any]:
    """An image by transformers' own loop."""
    ids = torch.randint(10, 1000, (1, prompt_length), generator=torch.Generator().manual_seed(0)).to(model.device)

    def run() -> torch.Tensor:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_mode="image",
            do_sample=True,
            top_k=1000,
            guidance_scale=guidance_scale,
            use_cache=True,
        )

    return run


@torch.no_grad()
def draw_as_released(model: Any, inputs: Mapping[str, torch.Tensor], guidance_scale: float) -> torch.Tensor:
    """An image at the released loop's costs, by our weights."""
    language_model = model.model.language_model
    embed = model.get_input_embeddings()
    height, width = inputs["target_grid"][0].tolist()
    ids = [inputs["input_ids"], inputs["unconditional_input_ids"]]
    longest = max(each.shape[1] for each in ids)
    embeds = torch.cat([F.pad(embed(each), (0, 0, longest - each.shape[1], 0)) for each in ids])
    mask = torch.cat([F.pad(torch.ones_like(each), (longest - each.shape[1], 0)) for each in ids])
    generators = [torch.Generator(embeds.device).manual_seed(0)]
    row_end = embed(torch.tensor([[model.config.eol_token_id]] * 2, device=embeds.device))
    cache, codes, length = DynamicCache(), [], longest
    for number in range(height * width):
        hidden = language_model(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        model.lm_head(hidden[:, -1:])
        conditional, unconditional = model.generation_head(hidden[:, -1]).float().chunk(2)
        logits = guide(conditional, unconditional, guidance_scale)
        best = logits.topk(min(1000, logits.shape[-1])).values[:, -1:]
        codes.append(sample_codes(logits.masked_fill(logits < best, -torch.inf), generators))
        embeds = model.model.embed_codes(codes[-1].repeat(2)[:, None], GENERATE).to(row_end.dtype)
        mask = F.pad(mask, (0, 1), value=1)
        length += 1
        if (number + 1) % width == 0 and number + 1 < height * width:
            hidden = language_model(
                inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True
            ).last_hidden_state
            model.lm_head(hidden[:, -1:])
            embeds, mask = row_end, F.pad(mask, (0, 1), value=1)
    return torch.stack(codes, dim=1)


def bytes_a_step(model: Any, prompt_length: int, num_codes: int) -> float:
    """Weights and, on average, keys and values that a step must read, with two rows."""
    language_model = model.model.language_model
    weights = sum(value.nbytes for value in language_model.layers.parameters()) + language_model.norm.weight.nbytes
    weights += sum(value.nbytes for value in model.generation_head.parameters())
    weights += sum(value.nbytes for value in model.model.generation_adapter.parameters())
    config = model.config.text_config
    head_dim = config.hidden_size // config.num_attention_heads
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * language_model.norm.weight.itemsize
    return weights + 2 * slot * (prompt_length + num_codes / 2)


def measure(precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one precision."""
    dtype, grid = DTYPES[precision], (options.side, options.side)
    num_codes = options.side**2
    dimensions = {**DIMENSIONS, "num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    model = make_model(dimensions, CODEBOOK, dtype, device=options.device)
    fused = make_model(dimensions, CODEBOOK, dtype, device=options.device).optimize()
    inputs = make_inputs(model, 1, grid, options.prompt)
    forwards: dict[str, int] = {}

    def ours(name: str, which: Any, **kwargs: Any) -> Callable[[], Any]:
        def run() -> None:
            out = which.generate(
                **inputs, seed=0, guidance_scale=options.guidance, return_dict_in_generate=True, **kwargs
            )
            forwards[name] = int(out.num_forwards[0])

        return run

    variants: dict[str, Callable[[], Any]] = {
        "released": lambda: draw_as_released(model, inputs, options.guidance),
        "plain": ours("plain", model, decoder="plain"),
        "eager": ours("eager", model, decoder="static"),
        "fused": ours("fused", fused, decoder="static"),
        "graphs": ours("graphs", fused, decoder="graphs"),
        "compiled": ours("compiled", fused, decoder="compiled"),
        "speculative": ours("speculative", fused, speculative_window=16),
    }
    if options.peer == "janus":
        janus = make_janus(dimensions, options.side, dtype, options.device)
        variants = {"janus": draw_with_janus(janus, options.prompt, options.guidance), **variants}
    left_out = [*options.without, *(() if torch.device(options.device).type == "cuda" else ("graphs",))]
    variants = {name: run for name, run in variants.items() if name not in left_out}
    times = seconds_in_turns(variants, options.rounds)
    bandwidth = read_bandwidth(torch.device(options.device))
    floor = bytes_a_step(model, options.prompt, num_codes) / bandwidth
    peers = [name for name in ("janus", "released") if name in times]
    return {
        "codes_per_second": {name: round(num_codes / statistics.median(each), 1) for name, each in times.items()},
        "seconds_per_image": {name: [round(value, 3) for value in each] for name, each in times.items()},
        "forwards": forwards,
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "floor_ms_per_step": round(1e3 * floor, 3),
        "floor_share": {name: round(num_codes * floor / statistics.median(each), 3) for name, each in times.items()},
        "ratios": {f"{name}_over_{peer}": ratio(times, peer, name) for name in OURS if name in times for peer in peers},
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("janus", "none"), default="janus", help="(default: %(default)s)")
    parser.add_argument("--precision", choices=DTYPES, action="append", help="only these (default: both)")
    parser.add_argument("--without", action="append", default=[], help="a variant to leave out, such as compiled")
    parser.add_argument("--side", type=int, default=16, help="rows and columns of codes (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=DIMENSIONS["num_hidden_layers"], help="(default: %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=DIMENSIONS["vocab_size"], help="(default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=3.0, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    write = sys.stdout.write
    found = {precision: measure(precision, options) for precision in options.precision or DTYPES}
    for precision, figures in found.items():
        write(f"\n{precision}: {figures['bandwidth_gb_per_second']} GB/s, ")
        write(f"floor {figures['floor_ms_per_step']} ms a step\n")
        write(f"{'':12} {'codes/s':>9} {'over janus':>11} {'over released':>14} {'of the floor':>13} {'forwards':>9}\n")
        for name, speed in figures["codes_per_second"].items():
            ratios = [figures["ratios"].get(f"{name}_over_{peer}", "") for peer in ("janus", "released")]
            write(
                f"{name:12} {speed:9.1f} {ratios[0]:>11} {ratios[1]:>14} {figures['floor_share'][name]:13.3f} "
                f"{figures['forwards'].get(name, ''):>9}\n"
            )
    figures = {
        "ratios": {precision: figures["ratios"] for precision, figures in found.items()},
        "floor_share": {precision: figures["floor_share"] for precision, figures in found.items()},
        "figures": found,
    }
    return write_figures(options, figures)


if __name__ == "__main__":
    main()
