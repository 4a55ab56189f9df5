"""The config: the released 7B by default, sub-configs, token ids, saving, and the names and shapes of the weights."""

import json
import runpy
import sys

import pytest
import torch
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from transformers_wallaroo import WallarooConfig, WallarooForConditionalGeneration, WallarooVQConfig
from transformers_wallaroo.conversion.keys import RELEASED_MLP, WALLAROO_KEYS


@pytest.fixture(scope="module")
def seven_billion():
    with torch.device("meta"):
        return WallarooForConditionalGeneration(WallarooConfig())


def test_default_is_the_released_7b():
    config = WallarooConfig()
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (3584, 28)
    assert (config.text_config.num_attention_heads, config.text_config.num_key_value_heads) == (28, 4)
    assert config.text_vocab_size == config.text_config.vocab_size == 152064
    assert (config.vision_config.hidden_size, config.vision_config.out_hidden_size) == (1280, 3584)
    assert (config.vq_config.num_embeddings, config.vq_config.embed_dim) == (16384, 8)
    assert config.vq_config.downsample_factor == 16
    assert [config.image_token_id, config.generate_start_token_id, config.eol_token_id] == [151655, 151665, 151669]


def test_7b_names_and_shapes_are_the_released_ones(seven_billion):
    """docs/protocol.md section 1, through the key table; Qwen2.5-VL's own part against a stock 7B."""
    shapes = {name: tuple(value.shape) for name, value in seven_billion.state_dict().items()}
    released = {
        "gen_input_adpater": ("model.generation_adapter", (3584, 8), 3584),
        "edit_input_adpater": ("model.editing_adapter", (3584, 8), 3584),
        "pixel_adapter": ("model.source_adapter", (3584, 8), 3584),
        "gen_image_head": ("generation_head", (3584, 3584), 16384),
        "edit_image_head": ("editing_head", (3584, 3584), 16384),
    }
    assert set(released) == set(RELEASED_MLP.values())
    for ours, first, width in released.values():
        assert shapes[f"{ours}.fc1.weight"] == first
        assert shapes[f"{ours}.fc1.bias"] == (3584,)
        assert shapes[f"{ours}.fc2.weight"] == (width, 3584)
        assert (f"{ours}.fc2.bias" in shapes) == (width == 3584)
    with torch.device("meta"):
        config = WallarooConfig()
        stock = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=config.text_config.to_dict(), vision_config=config.vision_config.to_dict())
        )
    for name, value in stock.state_dict().items():
        assert shapes[name] == tuple(value.shape)
    extra = {name.split(".")[0 if "head" in name else 1] for name in set(shapes) - set(stock.state_dict())}
    assert extra == {"vq_model", *(ours.removeprefix("model.") for ours, _, _ in released.values())}
    assert shapes["lm_head.weight"] == shapes["model.language_model.embed_tokens.weight"] == (152064, 3584)
    assert shapes["model.vq_model.quantize.embedding.weight"] == (16384, 8)
    assert len(WALLAROO_KEYS) == 13


def test_7b_size(seven_billion):
    """8 292 M of Qwen2.5-VL-7B, 12.9 M an adapter, 71.6 M an image head, 71.9 M of VQ tokenizer."""
    assert sum(parameter.numel() for parameter in seven_billion.parameters()) == 8_545_830_539


def test_config_survives_json(tmp_path):
    config = WallarooConfig(
        vq_config={"num_embeddings": 256, "channel_multiplier": [1, 2], "base_channels": 32},
        mlp_hidden_sizes={"generation_head": 96},
        row_ends=False,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, WallarooConfig)
    assert isinstance(loaded.vq_config, WallarooVQConfig)
    kept = {name: value for name, value in loaded.to_dict().items() if name != "_name_or_path"}
    assert kept == {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    assert loaded.vq_config.downsample_factor == 2
    assert loaded.mlp_hidden_size("generation_head") == 96
    assert loaded.mlp_hidden_size("editing_head") == 3584
    assert loaded.row_ends is False
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoModelForMultimodalLM",
        "AutoProcessor",
        "AutoImageProcessor",
    }


def test_unknown_mlp_is_named():
    with pytest.raises(ValueError, match=r"`mlp_hidden_sizes` may name generation_adapter, .*, but got drawing_head"):
        WallarooConfig(mlp_hidden_sizes={"drawing_head": 3})


def test_wrong_types_are_refused():
    with pytest.raises(Exception, match="eol_token_id"):
        WallarooConfig(eol_token_id="end")


def test_an_old_transformers_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.16.1")
    monkeypatch.delitem(sys.modules, "transformers_wallaroo.configuration_wallaroo")
    with pytest.raises(ImportError, match=r"needs transformers 5\.17 or newer, but 5\.16\.1 is installed"):
        runpy.run_module("transformers_wallaroo.configuration_wallaroo")
