"""conversion/convert_checkpoint.py: files that are refused, by name."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

import convert_checkpoint

VQ = "model.vq_model."
EDITING = ("model.source_adapter.", "model.editing_adapter.", "editing_head.")
RELEASED_EDITING = ("pixel_adapter", "edit_input_adpater", "edit_image_head")
OPTIONS = ("--base", "--checkpoint", "--vq-checkpoint", "--output", "--dtype", "--max-shard-size", "--push-to-hub")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# ------------------------------------------------------------------ strict both ways


def test_unknown_missing_and_misshaped_keys_are_named_at_once(released, refused):
    state, vq_state = released.state(), released.vq_state()
    state["wallaroo.lm_head.extra"] = torch.zeros(2)  # renamed, but no weight of the model
    state["optimizer.step"] = torch.zeros(2)  # known to no rule
    state["gen_image_head.2.bias"] = torch.zeros(256)
    del state["wallaroo.model.norm.weight"], state["wallaroo.visual.blocks.1.attn.qkv.bias"]
    state["wallaroo.model.layers.1.mlp.up_proj.weight"] = torch.zeros(144, 60)
    vq_state["quantize.usage"] = torch.zeros(3)
    del vq_state["encoder.mid.0.norm1.weight"]
    vq_state["post_quant_conv.bias"] = torch.zeros(31)
    released.save(state)
    released.save_vq(vq_state)
    message = refused(convert_checkpoint.main, released.arguments())
    unknown, missing, misshaped = message.split("; ")
    assert "4 unknown keys" in unknown
    for key in ("lm_head.extra", "optimizer.step", "gen_image_head.2.bias", "quantize.usage"):
        assert key in unknown
    assert "3 missing keys" in missing
    for key in ("language_model.norm.weight", "visual.blocks.1.attn.qkv.bias", "encoder.mid.block_1.norm1.weight"):
        assert key in missing
    assert "2 misshaped keys" in misshaped
    assert "language_model.layers.1.mlp.up_proj.weight (144, 60), expected (144, 64)" in misshaped
    assert f"{VQ}post_quant_conv.bias (31,), expected (32,)" in misshaped


def test_a_long_list_of_keys_is_cut_short(released, refused):
    state = released.state()
    released.save({**state, **{f"extra.{index:02}": torch.zeros(1) for index in range(15)}})
    message = refused(convert_checkpoint.main, released.arguments())
    assert "15 unknown keys: extra.00, " in message
    assert "extra.09, ..." in message
    assert "extra.10" not in message


def test_a_base_of_another_size(released, refused):
    released.change_json("config.json", num_hidden_layers=1, intermediate_size=128)
    message = refused(convert_checkpoint.main, released.arguments())
    assert "12 unknown keys: model.language_model.layers.1." in message
    assert "layers.0.mlp.gate_proj.weight (144, 64), expected (128, 64)" in message


def test_a_key_that_comes_twice(released, refused):
    state = released.state()
    released.save({**state, "module.gen_image_head.0.bias": state["gen_image_head.0.bias"] + 1})
    assert "gen_image_head.0.bias" in refused(convert_checkpoint.main, released.arguments())


# ------------------------------------------------------------------ foreign, broken and missing files


def test_files_given_the_wrong_way_round(released, refused):
    released.checkpoint, released.vq = released.vq, released.checkpoint
    message = refused(convert_checkpoint.main, released.arguments())
    assert str(released.checkpoint) in message
    assert "'state_dict'" in message
    assert "model" in message


def test_the_wallaroo_checkpoint_as_vq_checkpoint(released, refused):
    released.vq = released.checkpoint
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{released.vq} should hold a state dict under 'model', but holds" in message


def spoil_vq(name):
    def spoil(state):
        if name == "foreign":
            return {"layer.weight": torch.zeros(2, 2), "layer.bias": torch.zeros(2)}
        key, shape = {
            "flat convolution": ("encoder.conv_in.weight", (32,)),
            "scalar convolution": ("encoder.conv_in.weight", ()),
            "empty convolution": ("encoder.conv_in.weight", (0, 3, 3, 3)),
            "flat codebook": ("quantize.embedding.weight", (256,)),
            "flat latents": ("decoder.conv_in.weight", (64,)),
            "scalar output": ("decoder.conv_out.weight", ()),
        }[name]
        return {**state, key: torch.zeros(shape)}

    return spoil


@pytest.mark.parametrize(
    "name",
    [
        "foreign",
        "flat codebook",
        "flat convolution",
        "scalar convolution",
        "empty convolution",
        "flat latents",
        "scalar output",
    ],
)
def test_a_vq_checkpoint_of_another_layout(name, released, refused):
    released.save_vq(spoil_vq(name)(released.vq_state()))
    message = refused(convert_checkpoint.main, released.arguments())
    assert "VQ checkpoint is not in LlamaGen's layout" in message


def test_an_adapter_that_is_no_matrix(released, refused):
    released.save({**released.state(), "pixel_adapter.0.weight": torch.zeros(())})
    assert "source_adapter.fc1.weight ()" in refused(convert_checkpoint.main, released.arguments())


def test_a_state_dict_with_other_keys_than_strings(released, refused):
    released.save({0: torch.zeros(2), "wallaroo.lm_head.weight": torch.zeros(2)})
    assert str(released.checkpoint) in refused(convert_checkpoint.main, released.arguments())


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": {}}, {"state_dict": {"a": 1}}, torch.zeros(3)])
def test_torch_files_without_a_state_dict(content, released, refused):
    released.checkpoint = released.folder / "other.ckpt"
    torch.save(content, released.checkpoint)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{released.checkpoint} should hold a state dict under 'state_dict'" in message


@pytest.mark.parametrize("which", ["checkpoint", "vq"])
@pytest.mark.parametrize("length", ["none", "some", "most"])
def test_a_truncated_file(which, length, released, refused):
    content = getattr(released, which).read_bytes()
    broken = released.folder / "broken.pt"
    broken.write_bytes(content[: {"none": 0, "some": 1000, "most": len(content) - 500}[length]])
    setattr(released, which, broken)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{broken} cannot be read" in message
    assert "truncated" in message


def test_a_text_file(released, refused):
    released.checkpoint = released.base / "config.json"
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{released.checkpoint} cannot be read as a torch checkpoint of plain tensors" in message


class Code:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("which", ["checkpoint", "vq"])
@pytest.mark.parametrize("inside", [True, False])
def test_pickled_code_does_not_run(which, inside, released, refused):
    marker = released.folder / "ran"
    state = released.state() if which == "checkpoint" else released.vq_state()
    entry = "state_dict" if which == "checkpoint" else "model"
    path = released.folder / "code.pt"
    torch.save({entry: {**state, "code": Code(marker)}} if inside else {entry: state, "code": Code(marker)}, path)
    setattr(released, which, path)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{path} cannot be read as a torch checkpoint of plain tensors" in message
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so the file was a trap


@pytest.mark.parametrize("which", ["checkpoint", "vq"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_missing_file(which, folder, released, refused):
    path = released.folder / "absent.pt"
    if folder:
        path.mkdir()
    setattr(released, which, path)
    assert f"{path} does not exist or is no file." == refused(convert_checkpoint.main, released.arguments())


# ------------------------------------------------------------------ the base folder


def test_a_base_that_is_missing(released, refused):
    released.base = released.folder / "absent"
    assert f"{released.base} has no readable config.json" in refused(convert_checkpoint.main, released.arguments())


def test_a_base_without_config(released, refused):
    (released.base / "config.json").unlink()
    assert f"{released.base} has no readable config.json" in refused(convert_checkpoint.main, released.arguments())


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_base_with_a_broken_config(content, released, refused):
    (released.base / "config.json").write_bytes(content)
    assert str(released.base / "config.json") in refused(convert_checkpoint.main, released.arguments())


@pytest.mark.parametrize("values", [{"hidden_size": "64"}, {"num_attention_heads": 5}])
def test_a_base_with_an_impossible_config(values, released, refused):
    released.change_json("config.json", **values)
    message = refused(convert_checkpoint.main, released.arguments())
    assert "hidden_size" in message


@pytest.mark.parametrize("model_type", ["qwen2_vl", "wallaroo", None])
def test_a_base_that_is_no_qwen2_5_vl(model_type, released, refused):
    released.change_json("config.json", model_type=model_type)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"is of model type {model_type!r}, but expected 'qwen2_5_vl'" in message


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"]])
def test_a_base_without_tokenizer(left, released, refused):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if name not in left:
            (released.base / name).unlink()
    message = refused(convert_checkpoint.main, released.arguments())
    assert str(released.base) in message
    assert "tokenizer" in message.replace(str(released.base), "")


def test_a_base_with_a_broken_tokenizer(released, refused):
    content = (released.base / "tokenizer.json").read_text()
    (released.base / "tokenizer.json").write_text(content[: len(content) // 2])
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{released.base} has no readable tokenizer" in message


def test_a_base_whose_tokenizer_lacks_a_token(released, refused):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = released.base / name
        path.write_text(path.read_text().replace("<|video_pad|>", "<|other_pad|>"))
    assert "<|video_pad|>" in refused(convert_checkpoint.main, released.arguments())


def test_a_base_without_chat_template(released, refused):
    (released.base / "chat_template.json").unlink()
    released.change_json("tokenizer_config.json", chat_template=None)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"{released.base} has no chat template: expected chat_template.json" in message


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_base_with_a_broken_chat_template(content, released, refused):
    (released.base / "chat_template.json").write_text(content)
    assert "chat_template.json" in refused(convert_checkpoint.main, released.arguments())


def test_a_base_with_a_broken_generation_config(released, refused):
    (released.base / "generation_config.json").write_text("{")
    assert "generation_config.json" in refused(convert_checkpoint.main, released.arguments())


def test_a_base_without_generation_config(released):
    (released.base / "generation_config.json").unlink()
    released.convert()
    assert AutoModel.from_pretrained(released.output).generation_config.eos_token_id in (None, 522, [522])


# The last of the added tokens is <indicator:512>, 559; the marks and placeholders end at 547.
@pytest.mark.parametrize("rows", [547, 548, 559])
def test_token_ids_beyond_the_embedding_table(rows, released, refused):
    state = released.state()
    for key in ("wallaroo.model.embed_tokens.weight", "wallaroo.lm_head.weight"):
        state[key] = state[key][:rows].clone()
    released.save(state)
    released.change_json("config.json", vocab_size=rows)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"the embedding table has {rows} rows" in message


def test_an_embedding_table_that_just_suffices(released):
    state = released.state()
    for key in ("wallaroo.model.embed_tokens.weight", "wallaroo.lm_head.weight"):
        state[key] = state[key][:560].clone()
    released.save(state)
    released.change_json("config.json", vocab_size=560)
    released.convert()
    assert AutoConfig.from_pretrained(released.output).text_vocab_size == 560
