# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A Wallaroo out of a Qwen2.5-VL folder, and the understanding half of a Wallaroo as such a folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from ..configuration_wallaroo import WallarooConfig
from ..processing_wallaroo import WallarooProcessor
from .configs import infer_vq_config, make_config, make_generation_config, make_processor
from .keys import EXPORT_KEYS, IMAGE_PARTS, QWEN_KEYS, check_keys, expected_shapes, rename_keys
from .reading import CheckpointError, load_pickled, read_base, safetensors_loaders
from .writing import whole_folder, write_shards, write_wallaroo


def init_from_qwen(
    base: str | Path,
    vq_checkpoint: str | Path,
    output: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "5GB",
    stage: str = "4",
) -> list[str]:
    """Builds the checkpoint, and returns a line for each dropped key and each newly initialised weight."""
    base_config, vq_state = read_base(base), load_pickled(vq_checkpoint, "model")
    vq_config = infer_vq_config(vq_state)
    processor = make_processor(base, vq_config.downsample_factor, stage)
    config = make_config(base_config, vq_config, {}, processor.tokenizer)
    entries, _, unknown = rename_keys(safetensors_loaders(base), QWEN_KEYS)
    return write_wallaroo(
        output,
        config,
        processor,
        make_generation_config(base),
        entries,
        unknown,
        vq_state,
        may_miss=IMAGE_PARTS,
        why="a plain Qwen2.5-VL has none",
        dtype=dtype,
        max_shard_size=max_shard_size,
    )


def export_qwen(checkpoint: str | Path, output: str | Path, max_shard_size: str = "5GB") -> list[str]:
    """Exports, and returns what a user should know, a line each."""
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no readable config: {error}") from error
    if not isinstance(config, WallarooConfig):
        raise CheckpointError(f"{checkpoint} is of model type {config.model_type!r}, but expected 'wallaroo'.")
    entries = safetensors_loaders(checkpoint)
    check_keys(entries, expected_shapes(config), [])
    renamed, dropped, unknown = rename_keys(entries, EXPORT_KEYS)
    assert not unknown, f"EXPORT_KEYS has no rule for {unknown}"
    qwen = Qwen2_5_VLConfig(
        text_config=config.text_config.to_dict(),
        vision_config=config.vision_config.to_dict(),
        tie_word_embeddings=config.tie_word_embeddings,
        architectures=[Qwen2_5_VLForConditionalGeneration.__name__],
        **{
            name: getattr(config, name)
            for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "dtype")
        },
    )
    try:
        processor = AutoProcessor.from_pretrained(checkpoint)
        generation_config = GenerationConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no readable processor or generation config: {error}") from error
    with whole_folder(output, qwen.model_type) as folder:
        qwen.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        save_processor(folder, processor)
        dtypes = {key: load().dtype for key, (load, _) in renamed.items()}
        write_shards(folder, renamed, dtypes.__getitem__, max_shard_size)
    return [f"left behind {len(dropped)} weights of image generation and editing"]


def save_processor(folder: Path, processor: WallarooProcessor) -> None:
    """Tokenizer, chat template and image-processor config as a Qwen2.5-VL folder has them."""
    image_processor = processor.image_processor
    processor.tokenizer.save_pretrained(folder)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": image_processor.size["shortest_edge"],
        "max_pixels": image_processor.size["longest_edge"],
        **{name: getattr(image_processor, name) for name in ("patch_size", "temporal_patch_size", "merge_size")},
        "image_mean": list(image_processor.image_mean),
        "image_std": list(image_processor.image_std),
    }
    change_tokenizer_config(folder, {"auto_map": None, "processor_class": "Qwen2_5_VLProcessor"})
    for name, content in (
        ("preprocessor_config.json", settings),
        ("chat_template.json", {"chat_template": processor.chat_template}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def change_tokenizer_config(folder: Path, values: Mapping[str, str | None]) -> None:
    """Sets fields of tokenizer_config.json, `None` takes one out; so does what says how the tokenizer was loaded."""
    path = folder / "tokenizer_config.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), "is_local": None, "local_files_only": None, **values}
    keep = {key: value for key, value in content.items() if value is not None or key in ("bos_token", "unk_token")}
    path.write_text(json.dumps(keep, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
