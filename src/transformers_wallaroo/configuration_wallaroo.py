# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Configuration of Wallaroo: Qwen2.5-VL's, plus the VQ tokenizer and the added token ids."""

from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from packaging import version
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLVisionConfig,
)

# Here, because every other file imports this one, and an old version would only say which name it lacks.
OLDEST_TRANSFORMERS = "5.17"
if version.parse(transformers.__version__).release < version.parse(OLDEST_TRANSFORMERS).release:
    raise ImportError(
        f"Wallaroo needs transformers {OLDEST_TRANSFORMERS} or newer, but {transformers.__version__} is installed: "
        "`pip install --upgrade transformers`."
    )

# What a saved checkpoint tells the Auto classes, so that `trust_remote_code=True` finds every class.
AUTO_MAP: dict[str, str] = {
    "AutoConfig": "configuration_wallaroo.WallarooConfig",
    "AutoModel": "modeling_wallaroo.WallarooForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_wallaroo.WallarooForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_wallaroo.WallarooForConditionalGeneration",
    "AutoProcessor": "processing_wallaroo.WallarooProcessor",
    "AutoImageProcessor": "image_processing_wallaroo.WallarooImageProcessor",
}

# The published sizes of Qwen2.5-VL-7B: what an empty `WallarooConfig()` stands for.
QWEN_7B_TEXT: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
QWEN_7B_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "tokens_per_second": 2,
}
MLP_NAMES = ("generation_adapter", "editing_adapter", "source_adapter", "generation_head", "editing_head")


@strict
class WallarooVQConfig(JanusVQVAEConfig):
    """Configuration of the VQ image tokenizer (LlamaGen VQ-16, docs/protocol.md section 2).

    The fields are those of `JanusVQVAEConfig`; the defaults are the released ones (16384 codes x 8, 16x downsampling).

    Args:
        norm_num_groups (`int`): groups of channels in every GroupNorm. A narrow tokenizer needs fewer than the released
            32: a group of one channel forgets the channel's mean, and with it the colour of a plain picture.
        cell_wise (`bool`): encode and decode every cell by itself, as a picture of one cell. GroupNorm then sees the
            cell alone, so that equal cells have equal codes; for flat pictures whose cells tell of no others.
    """

    model_type = "wallaroo_vq"
    base_config_key = "vq_config"

    norm_num_groups: int = 32
    cell_wise: bool = False

    @property
    def downsample_factor(self) -> int:
        """Pixels a cell, along each side."""
        return 2 ** (len(self.channel_multiplier) - 1)


@strict
class WallarooConfig(Qwen2_5_VLConfig):
    """Configuration of Wallaroo (paper section 3.1). `WallarooConfig()` is the released 7B.

    Args:
        vq_config (`dict` or `WallarooVQConfig`): the VQ image tokenizer.
        mlp_hidden_sizes (`dict[str, int]`): hidden width of an adapter or head, by its name; one that is not
            listed is as wide as the language model, as released.
        generate_start_token_id, generate_end_token_id (`int`): marks around an image being made.
        pixel_start_token_id, pixel_end_token_id (`int`): marks around the cells of a source image.
        eol_token_id (`int`): row end.
        generate_image_pad_token_id (`int`): placeholder of a code that is not known yet.
        row_ends (`bool`): whether a row end stands between two rows of an image (from stage 3b on).
        source_positions (`str`): `"1d"`, as released, or `"2d"`: source cells count rows and columns, like the vision
            tower's features (an ablation of paper section 5).
        shared_image_head (`bool`): whether editing predicts with the generation head and has none of its own.
        decides_edits (`bool`): whether the text head was trained to say, after `<|generate_start|>`, if the last
            picture is to be edited (`<|pixel_start|>`) or a new one drawn (`<|vision_start|>`). Without it
            `task="auto"` edits wherever there is a picture.

    A code `c` of the VQ tokenizer has the id `text_vocab_size + c` wherever ids are tokens: in `input_ids`, `labels`
    and the sequences that `generate` returns.
    """

    model_type = "wallaroo"
    # `sub_configs` is what transformers reads up to 5.17, `sub_configs_defaults` what it reads later.
    sub_configs = {
        "vision_config": Qwen2_5_VLVisionConfig,
        "text_config": Qwen2_5_VLTextConfig,
        "vq_config": WallarooVQConfig,
    }
    sub_configs_defaults = {
        "vision_config": Qwen2_5_VLVisionConfig,
        "text_config": Qwen2_5_VLTextConfig,
        "vq_config": WallarooVQConfig,
    }
    _auto_class = "AutoConfig"
    # `Trainer` gathers the other outputs of an evaluation; the losses' names differ from batch to batch.
    keys_to_ignore_at_inference = ["past_key_values", "losses"]

    # Config objects once made; a dict or `None` when given.
    text_config: Any = None
    vision_config: Any = None
    vq_config: Any = None
    mlp_hidden_sizes: Any = None
    generate_start_token_id: int = 151665
    generate_end_token_id: int = 151666
    pixel_start_token_id: int = 151667
    pixel_end_token_id: int = 151668
    eol_token_id: int = 151669
    generate_image_pad_token_id: int = 151670
    row_ends: bool = True
    source_positions: str = "1d"
    shared_image_head: bool = False
    decides_edits: bool = False
    auto_map: dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        if self.text_config is None and "hidden_size" not in kwargs:
            self.text_config = dict(QWEN_7B_TEXT)
        if self.vision_config is None:
            self.vision_config = dict(QWEN_7B_VISION)
        if self.vq_config is None:
            self.vq_config = WallarooVQConfig()
        elif isinstance(self.vq_config, dict):
            self.vq_config = WallarooVQConfig(**self.vq_config)
        # Where the tokenizer was once loaded from is nobody's business: it would be saved with every checkpoint.
        self.vq_config._name_or_path = ""
        self.mlp_hidden_sizes = dict(self.mlp_hidden_sizes or {})
        unknown = sorted(set(self.mlp_hidden_sizes) - set(MLP_NAMES))
        if unknown:
            raise ValueError(f"`mlp_hidden_sizes` may name {', '.join(MLP_NAMES)}, but got {', '.join(unknown)}.")
        if self.source_positions not in ("1d", "2d"):
            raise ValueError(f"`source_positions` must be '1d' or '2d', but got {self.source_positions!r}.")
        self.auto_map = {**AUTO_MAP, **(self.auto_map or {})}
        super().__post_init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """What `pipeline("any-to-any", ..., trust_remote_code=True)` runs. Made anew: transformers writes into it."""
        return {"any-to-any": {"impl": "pipeline_wallaroo.WallarooPipeline", "pt": ["AutoModelForMultimodalLM"]}}

    @property
    def text_vocab_size(self) -> int:
        """Rows of the text embedding table; also the id of code 0."""
        return self.text_config.vocab_size

    def mlp_hidden_size(self, name: str) -> int:
        """Hidden width of the adapter or head called `name`."""
        return self.mlp_hidden_sizes.get(name, self.text_config.hidden_size)


__all__ = ["WallarooConfig", "WallarooVQConfig"]
