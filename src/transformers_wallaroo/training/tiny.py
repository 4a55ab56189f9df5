# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The untrained parts of `wallaroo-tiny`: its tokenizer, processor and model, sized for the shapes world and a CPU."""

import json
import re

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import GenerationConfig, Qwen2Tokenizer

from ..configuration_wallaroo import WallarooConfig, WallarooVQConfig
from ..image_processing_wallaroo import WallarooImageProcessor
from ..modeling_wallaroo import WallarooForConditionalGeneration
from ..processing_wallaroo import WallarooProcessor
from ..prompts_wallaroo import (
    END_OF_TEXT,
    IMAGE_PAD,
    MARKS,
    SYSTEM_PROMPT,
    TEMPLATES,
    TURN_END,
    TURN_START,
    VISION_END,
    VISION_START,
)
from ..shapes.language import corpus
from ..shapes.world import BUCKETS, CELL

SPECIAL_TOKENS = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    "<|video_pad|>",
)
# How a conversation is written; Qwen2.5-VL's own template says the same for text and pictures.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM_PROMPT + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# More of it multiplies things in this world (docs/decisions.md).
GUIDANCE_SCALE = 1.5
PATCH_SIZE, MERGE_SIZE = 8, 2  # pixels a patch, patches a feature: a feature is a cell of the shapes world
TINY_TEXT = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "max_window_layers": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1] * 16},
    "tie_word_embeddings": True,
}
TINY_VISION = {
    "depth": 3,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 4,
    "out_hidden_size": 256,
    "patch_size": PATCH_SIZE,
    "spatial_patch_size": PATCH_SIZE,
    "spatial_merge_size": MERGE_SIZE,
    "fullatt_block_indexes": [0, 1, 2],
}


def build_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE as Qwen2.5-VL's, with a token for each word of the shapes world and of the templates.

    The words are counted alone, so that no token holds more than one; the templates' fixed texts come after them.
    """
    words = [*corpus(), SYSTEM_PROMPT, "system", "user", "assistant"]
    fixed = [
        piece
        for languages in TEMPLATES.values()
        for templates in languages.values()
        for template in templates
        for piece in re.split(r"\{\w+\}", template)
    ]
    empty = Qwen2Tokenizer(vocab={}, merges=[])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = empty.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([*words * 50, *fixed], trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=[tuple(merge) for merge in bpe["merges"]])
    tokenizer.add_special_tokens(
        {"eos_token": TURN_END, "pad_token": END_OF_TEXT, "additional_special_tokens": list(SPECIAL_TOKENS)}
    )
    sides = sorted({side for _, *size in BUCKETS for side in size})
    # As ordinary tokens, like the released ones: `add_wallaroo_tokens` with this world's sizes.
    # The last are for `size_indicators="cells"`, an ablation.
    indicators = [*sides, *(side // CELL for side in sides)]
    tokenizer.add_tokens([*MARKS, *(f"<indicator:{count}>" for count in indicators)])
    return tokenizer


def build_processor() -> WallarooProcessor:
    """The processor of the shapes world: its tokenizer, its sizes, and a vision tower that sees a cell as a feature."""
    sizes = [(height, width) for _, height, width in BUCKETS]
    image_processor = WallarooImageProcessor(
        buckets=BUCKETS,
        downsample_factor=CELL,
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        size={
            "shortest_edge": min(height * width for height, width in sizes),
            "longest_edge": max(height * width for height, width in sizes),
        },
    )
    return WallarooProcessor(image_processor, build_tokenizer(), chat_template=CHAT_TEMPLATE, max_length=512)


def build_config(processor: WallarooProcessor, vq_config: WallarooVQConfig) -> WallarooConfig:
    """A Qwen2.5-VL of about 5 M parameters with the token ids of `processor`."""
    token_id = processor.tokenizer.convert_tokens_to_ids
    names = {
        "image_token_id": IMAGE_PAD,
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
        **dict(
            zip(
                (
                    "generate_start_token_id",
                    "generate_end_token_id",
                    "pixel_start_token_id",
                    "pixel_end_token_id",
                    "eol_token_id",
                    "generate_image_pad_token_id",
                ),
                MARKS,
                strict=True,
            )
        ),
    }
    rows = -(-len(processor.tokenizer) // 64) * 64
    ids = {
        "bos_token_id": token_id(END_OF_TEXT),
        "eos_token_id": token_id(TURN_END),
        "pad_token_id": token_id(END_OF_TEXT),
    }
    return WallarooConfig(
        text_config={**TINY_TEXT, "vocab_size": rows, **ids},
        vision_config=TINY_VISION,
        vq_config=vq_config,
        tie_word_embeddings=True,
        **{name: token_id(token) for name, token in names.items()},
    )


def build_tiny(
    vq_config: WallarooVQConfig, *, seed: int = 0
) -> tuple[WallarooForConditionalGeneration, WallarooProcessor]:
    """Model with random weights, and processor, of `wallaroo-tiny`."""
    processor = build_processor()
    torch.manual_seed(seed)
    model = WallarooForConditionalGeneration(build_config(processor, vq_config))
    init_narrow(model)
    # Anew: transformers keeps nothing of its own making but what follows from the model's config.
    model.generation_config = GenerationConfig(
        bos_token_id=processor.tokenizer.pad_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        image_defaults={"guidance_scale": GUIDANCE_SCALE},
    )
    return model, processor


@torch.no_grad()
def init_narrow(model: WallarooForConditionalGeneration) -> None:
    """First weights for a width of 256: each linear layer keeps the size of its input.

    transformers starts all of them at 0.02, which suits widths of thousands. Here attention would start almost even
    over all tokens, and hardly learn where to look. What is added to the residual stream starts smaller with the depth.
    """
    layers = 2 * model.config.text_config.num_hidden_layers
    for name, module in model.named_modules():
        if "vq_model" in name.split("."):
            continue
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            std = module.weight[0].numel() ** -0.5
            if name.endswith(("o_proj", "down_proj", "attn.proj")):
                std /= layers**0.5
            module.weight.normal_(std=std)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=module.embedding_dim**-0.5)


__all__ = ["build_config", "build_processor", "build_tiny", "build_tokenizer"]
