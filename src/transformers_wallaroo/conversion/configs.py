# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Configuration and processor of a Wallaroo, made of those of a Qwen2.5-VL and of the weights."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLConfig

from ..configuration_wallaroo import MLP_NAMES, WallarooConfig, WallarooVQConfig
from ..image_processing_wallaroo import WallarooImageProcessor
from ..modeling_wallaroo import WallarooForConditionalGeneration
from ..processing_wallaroo import WallarooProcessor, add_wallaroo_tokens
from .keys import RELEASED_MLP
from .reading import CheckpointError

# Of each training stage, docs/protocol.md sections 3, 4 and 9: the side of its square images in pixels (`None` from the
# multi-resolution stage on, which has row ends, size tokens and the table of sizes), and the most pixels of the ViT.
STAGES: dict[str, tuple[int | None, int]] = {
    "1": (384, 1003520),
    "2": (384, 254016),
    "3a": (512, 254016),
    "3b": (None, 254016),
    "4": (None, 188160),
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def infer_vq_config(state: Mapping[str, torch.Tensor]) -> WallarooVQConfig:
    """The widths of a LlamaGen VQ tokenizer, from its weights."""
    try:
        base = state["encoder.conv_in.weight"].shape[0]
        levels = 1 + max(int(match[1]) for key in state if (match := re.match(r"encoder\.conv_blocks\.(\d+)\.", key)))
        blocks = 1 + max(
            int(match[1]) for key in state if (match := re.match(r"encoder\.conv_blocks\.0\.res\.(\d+)\.", key))
        )
        multipliers = [
            state[f"encoder.conv_blocks.{level}.res.0.conv1.weight"].shape[0] // base for level in range(levels)
        ]
        codes, dims = state["quantize.embedding.weight"].shape
        return WallarooVQConfig(
            base_channels=base,
            channel_multiplier=multipliers,
            num_res_blocks=blocks,
            latent_channels=state["decoder.conv_in.weight"].shape[1],
            in_channels=state["encoder.conv_in.weight"].shape[1],
            out_channels=state["decoder.conv_out.weight"].shape[0],
            embed_dim=dims,
            num_embeddings=codes,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The VQ checkpoint is not in LlamaGen's layout ({error}); its keys begin with {sorted(state)[:5]}."
        ) from error


def infer_mlp_sizes(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Hidden widths of the adapters and heads that a Wallaroo checkpoint has."""
    names = {name: f"{RELEASED_MLP[name]}.0.weight" for name in MLP_NAMES}
    return {name: state[key].shape[0] for name, key in names.items() if key in state and state[key].ndim}


def make_config(
    base: Mapping[str, Any], vq_config: WallarooVQConfig, mlp_sizes: Mapping[str, int], tokenizer: Any
) -> WallarooConfig:
    """The Wallaroo config on top of a Qwen2.5-VL config, token ids as the tokenizer has them."""
    qwen = Qwen2_5_VLConfig.from_dict(dict(base))
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "generate_start_token_id": "<|generate_start|>",
            "generate_end_token_id": "<|generate_end|>",
            "pixel_start_token_id": "<|pixel_start|>",
            "pixel_end_token_id": "<|pixel_end|>",
            "eol_token_id": "<|end_of_line>|",
            "generate_image_pad_token_id": "<|generate_image_pad|>",
        }.items()
    }
    text, width = qwen.text_config, qwen.text_config.hidden_size
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if base.get(name, ids[name]) != ids[name]:
            raise CheckpointError(
                f"The tokenizer of the base folder {tokenizer.name_or_path} gives {ids[name]} as {name}, but its "
                f"config.json {base[name]}: tokenizer files are missing or of another model."
            )
    if len(tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"The tokenizer has ids up to {len(tokenizer) - 1}, but the embedding table has {text.vocab_size} rows."
        )
    return WallarooConfig(
        text_config=text.to_dict(),
        vision_config=qwen.vision_config.to_dict(),
        vq_config=vq_config,
        tie_word_embeddings=qwen.tie_word_embeddings,
        # Only what differs from the language model's width is worth saying.
        mlp_hidden_sizes={name: size for name, size in mlp_sizes.items() if size != width},
        architectures=[WallarooForConditionalGeneration.__name__],
        **ids,
    )


def make_processor(base_folder: str | os.PathLike, downsample_factor: int = 16, stage: str = "4") -> WallarooProcessor:
    """The processor for a Qwen2.5-VL folder's tokenizer and chat template, with the Wallaroo tokens added and the
    sizes, row ends and size tokens of a training stage."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{base_folder} has no readable tokenizer: {error}") from error
    lacking = [
        token
        for token in ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        if token not in tokenizer.get_vocab()
    ]
    if lacking:
        raise CheckpointError(f"{base_folder} has no readable tokenizer of Qwen2.5-VL: it lacks {', '.join(lacking)}.")
    template = tokenizer.chat_template
    template_file = Path(base_folder) / "chat_template.json"
    if template_file.is_file():
        try:
            template = json.loads(template_file.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{template_file} holds no chat template: {error!r}.") from error
    if not template:
        raise CheckpointError(
            f"{base_folder} has no chat template: expected chat_template.json or one in the tokenizer."
        )
    side, max_pixels = STAGES[stage]
    image_processor = WallarooImageProcessor(
        size={"shortest_edge": 12544, "longest_edge": max_pixels},
        buckets=None if side is None else [[1.0, side, side]],
        downsample_factor=downsample_factor,
    )
    return WallarooProcessor(
        image_processor,
        add_wallaroo_tokens(tokenizer),
        chat_template=template,
        row_ends=side is None,
        size_indicators="token" if side is None else "none",
    )


def make_generation_config(base_folder: str | os.PathLike) -> GenerationConfig:
    """The token ids of the base model's generation config, and nothing of its sampling: answers are greedy."""
    base = GenerationConfig()
    if (Path(base_folder) / "generation_config.json").is_file():
        try:
            base = GenerationConfig.from_pretrained(base_folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{base_folder} has no readable generation_config.json: {error}") from error
    return GenerationConfig(
        bos_token_id=base.bos_token_id, eos_token_id=base.eos_token_id, pad_token_id=base.pad_token_id
    )
