"""conversion/init_from_qwen.py: a Qwen2.5-VL and a VQ tokenizer become a Wallaroo ready for stage 1."""

import json
import runpy
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer

import init_from_qwen
from reference import LOGITS, REFERENCE, assert_close

VQ = "model.vq_model."
FRESH = ("model.generation_adapter.", "model.editing_adapter.", "model.source_adapter.")
HEADS = ("generation_head.", "editing_head.")
OPTIONS = ("--base", "--vq-checkpoint", "--output", "--dtype", "--max-shard-size", "--push-to-hub")


def init(released, **more):
    return init_from_qwen.init_from_qwen(
        released.base, released.vq, released.output, **{"dtype": torch.float32, **more}
    )


def arguments(released, *more):
    named = {"--base": released.base, "--vq-checkpoint": released.vq, "--output": released.output}
    return [str(text) for pair in named.items() for text in pair] + list(more)


def rename_base(released, rename):
    """Renames the weights of the base folder."""
    weights = {rename(key): value for key, value in released.weights(released.base).items()}
    save_file(weights, released.base / "model.safetensors", metadata={"format": "pt"})


def hub_name(key):
    return key


def new_name(key):
    """As transformers 5 calls the weights in memory."""
    if key.startswith("visual."):
        return f"model.{key}"
    return key if key.startswith("lm_head.") else "model.language_model." + key.removeprefix("model.")


def test_main_makes_a_wallaroo(released, capsys):
    released.save_qwen()
    assert init_from_qwen.main(arguments(released)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dropped quantize.codebook_used"
    assert lines[-1] == f"wrote {released.output}"
    fresh = lines[1:-1]
    assert all(line.startswith("newly initialised ") for line in fresh)
    assert all(line.endswith(" (a plain Qwen2.5-VL has none)") for line in fresh)
    expected = [f"{part}fc{layer}.{kind}" for part in FRESH for layer in (1, 2) for kind in ("weight", "bias")]
    expected += [f"{head}{name}" for head in HEADS for name in ("fc1.weight", "fc1.bias", "fc2.weight")]
    assert sorted(line.split()[2] for line in fresh) == sorted(expected)
    assert released.weights(released.output)["lm_head.weight"].dtype == torch.bfloat16


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["init_from_qwen.py", "--help"])
    with pytest.raises(SystemExit) as exit_status:
        runpy.run_path(init_from_qwen.__file__, run_name="__main__")
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert [option for option in OPTIONS if option not in text] == []
    assert "--checkpoint" not in text


@pytest.mark.parametrize(("tied", "name"), [(False, hub_name), (False, new_name), (True, hub_name)])
def test_understanding_is_that_of_the_stock_model(tied, name, released, converted, question):
    released.change_json("config.json", tie_word_embeddings=tied)
    stock = released.save_qwen()
    assert "visual.blocks.0.attn.qkv.weight" in released.weights(released.base)
    rename_base(released, name)
    init(released)
    model, info = AutoModel.from_pretrained(released.output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert_close(model.eval()(**question).logits, stock(**question).logits, LOGITS)
    taken = {key: value for key, value in stock.state_dict().items() if not (tied and key == "lm_head.weight")}
    weights = released.weights(released.output)
    released.same({key: weights[key] for key in taken}, taken)
    released.same(
        {key: value for key, value in weights.items() if key.startswith(VQ)},
        {key: value for key, value in released.weights(converted).items() if key.startswith(VQ)},
    )
    assert ("lm_head.weight" in weights) is not tied


def test_the_config_as_the_hub_has_it(released):
    """`save_pretrained` nests the text config; the published folders have its fields at the top."""
    released.save_qwen()
    init(released)
    nested = released.content(released.output)
    shutil.copy(REFERENCE / "base" / "config.json", released.base)
    init(released)
    assert released.content(released.output) == nested


def test_the_result_draws_and_answers(released, picture):
    released.save_qwen()
    init(released)
    model = AutoModel.from_pretrained(released.output).eval()
    processor = AutoProcessor.from_pretrained(released.output)
    inputs = processor(text="a red kangaroo", task="generate", height=32, width=48, return_tensors="pt")
    out = model.generate(**inputs, seed=7, return_dict_in_generate=True)
    assert out.codes[0].shape == (2, 3)
    (image,) = processor.post_process_multimodal_output(
        model.decode_image_tokens(out.sequences), generation_mode="image"
    )
    assert image.size == (48, 32)
    inputs = processor(text="What is this?", images=picture, task="understand", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3).shape[1] <= inputs["input_ids"].shape[1] + 3
    config = AutoConfig.from_pretrained(released.output)
    assert config.mlp_hidden_sizes == {}
    assert [config.mlp_hidden_size(name) for name in ("generation_adapter", "editing_head")] == [64, 64]


def test_sharded_input_gives_the_same(released):
    released.save_qwen()
    init(released)
    whole = released.content(released.output)
    (released.base / "model.safetensors").unlink()
    released.save_qwen(max_shard_size="200KB")
    assert len(list(released.base.glob("*.safetensors"))) > 3
    init(released)
    assert released.content(released.output) == whole


def test_no_more_than_one_shard_is_in_memory(released, shard_memory):
    released.save_qwen()
    init(released, dtype=torch.bfloat16, max_shard_size="500KB")
    assert len(shard_memory.bytes_written) > 10
    assert max(shard_memory.bytes_written) <= 500_000
    assert shard_memory.bytes_left == 0


def test_new_parts_are_the_same_each_time_and_whatever_the_seed(released):
    released.save_qwen()
    torch.manual_seed(1)
    init(released)
    first = released.content(released.output)
    torch.manual_seed(2)
    init(released)
    assert released.content(released.output) == first
    weights = released.weights(released.output)
    fresh = {key: value for key, value in weights.items() if key.startswith(FRESH + HEADS)}
    assert len(fresh) == 18
    for key, value in fresh.items():
        bound = fresh[f"{key.rpartition('.')[0]}.weight"].shape[1] ** -0.5
        assert value.abs().max() <= bound * 1.01, key  # bf16 rounds
        assert value.std().item() == pytest.approx(bound / 3**0.5, rel=4 / (2 * value.numel()) ** 0.5), key


def test_token_ids_and_tokenizer(released):
    released.save_qwen()
    init(released)
    config = AutoConfig.from_pretrained(released.output)
    assert (config.generate_start_token_id, config.eol_token_id, config.generate_image_pad_token_id) == (542, 546, 547)
    assert (config.image_token_id, config.vision_start_token_id) == (532, 529)
    tokenizer = AutoTokenizer.from_pretrained(released.output)
    assert tokenizer.convert_tokens_to_ids("<indicator:512>") == 559
    assert json.loads((released.output / "generation_config.json").read_text())["eos_token_id"] == [522, 520]


# ------------------------------------------------------------------ what is refused


def test_a_base_without_weights(released, refused):
    assert f"{released.base} has no *.safetensors files." in refused(init_from_qwen.main, arguments(released))


@pytest.mark.parametrize("length", [0, 100, 200_000])
def test_truncated_weights(length, released, refused):
    released.save_qwen()
    file = released.base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    message = refused(init_from_qwen.main, arguments(released))
    assert f"{file} cannot be read as safetensors; it is truncated or foreign" in message


def test_a_missing_shard(released, refused):
    released.save_qwen(max_shard_size="200KB")
    lost = sorted(released.base.glob("*.safetensors"))[1]
    index = json.loads((released.base / "model.safetensors.index.json").read_text())["weight_map"]
    gone = [new_name(key) for key, file in index.items() if file == lost.name]
    lost.unlink()
    message = refused(init_from_qwen.main, arguments(released))
    assert f"{len(gone)} missing keys" in message
    assert all(key in message for key in gone[:10])


def test_keys_are_strict_both_ways(released, refused):
    released.save_qwen()
    weights = released.weights(released.base)
    weights["model.norm.weight"] = torch.zeros(63)
    del weights["visual.merger.ln_q.weight"]
    weights["lm_head.bias"] = torch.zeros(640)
    weights["visual.blocks.7.norm1.weight"] = torch.zeros(32)
    save_file(weights, released.base / "model.safetensors", metadata={"format": "pt"})
    message = refused(init_from_qwen.main, arguments(released))
    unknown, missing, misshaped = message.split("; ")
    assert "2 unknown keys" in unknown
    assert "lm_head.bias" in unknown
    assert "visual.blocks.7.norm1.weight" in unknown
    assert "1 missing keys: model.visual.merger.ln_q.weight" in missing
    assert "1 misshaped keys: model.language_model.norm.weight (63,), expected (64,)" in misshaped


def test_untied_base_without_text_head(released, refused):
    released.save_qwen()
    weights = released.weights(released.base)
    del weights["lm_head.weight"]
    save_file(weights, released.base / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing keys: lm_head.weight" in refused(init_from_qwen.main, arguments(released))


def test_tied_base_with_another_text_head(released, refused):
    released.save_qwen()
    released.change_json("config.json", tie_word_embeddings=True)
    assert "lm_head.weight differs" in refused(init_from_qwen.main, arguments(released))


def test_a_weight_under_two_names(released, refused):
    released.save_qwen()
    weights = released.weights(released.base)
    weights["model.visual.merger.ln_q.weight"] = weights["visual.merger.ln_q.weight"] + 1
    save_file(weights, released.base / "model.safetensors", metadata={"format": "pt"})
    assert "visual.merger.ln_q.weight" in refused(init_from_qwen.main, arguments(released))


def test_a_weight_in_two_files(released, refused):
    released.save_qwen()
    save_file({"model.norm.weight": torch.zeros(64)}, released.base / "other.safetensors")
    assert "model.norm.weight" in refused(init_from_qwen.main, arguments(released))


def test_a_wallaroo_as_base(released, converted, refused):
    released.base = converted
    message = refused(init_from_qwen.main, arguments(released))
    assert "is of model type 'wallaroo', but expected 'qwen2_5_vl'" in message


def test_a_foreign_vq_checkpoint(released, refused):
    released.save_qwen()
    released.save_vq({"conv.weight": torch.zeros(3)})
    assert "VQ checkpoint is not in LlamaGen's layout" in refused(init_from_qwen.main, arguments(released))


def test_failure_midway_leaves_an_earlier_result(released, capsys):
    released.save_qwen()
    init(released)
    before = released.content(released.output)
    file = released.base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert init_from_qwen.main(arguments(released)) == 1
    assert f"error: {file} cannot be read" in capsys.readouterr().err
    assert released.content(released.output) == before
    assert list(released.output.parent.iterdir()) == [released.output]
