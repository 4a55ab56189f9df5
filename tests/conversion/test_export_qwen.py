"""conversion/export_qwen.py: the understanding half as a plain Qwen2.5-VL, and round trips through it."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, GenerationConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from transformers_wallaroo.conversion import writing

import export_qwen
import init_from_qwen
from reference import LOGITS, assert_close, case

OPTIONS = ("--checkpoint", "--output", "--max-shard-size", "--push-to-hub")
VQ = "model.vq_model."


def stock_model(folder):
    """The stock model of an exported folder; nothing may be missing or left over."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def arguments(checkpoint, output, *more):
    return ["--checkpoint", str(checkpoint), "--output", str(output), *more]


@pytest.fixture(scope="session")
def exported(converted, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "qwen"
    export_qwen.export_qwen(converted, output)
    return output


def test_main_exports_and_reports(converted, released, capsys):
    assert export_qwen.main(arguments(converted, released.output)) == 0
    image_weights = [
        key
        for key in released.weights(converted)
        if not key.startswith(("model.visual.", "model.language_model.", "lm_head."))
    ]
    report = f"left behind {len(image_weights)} weights of image generation and editing\nwrote {released.output}\n"
    assert capsys.readouterr().out == report


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export_qwen.py", "--help"])
    with pytest.raises(SystemExit) as exit_status:
        runpy.run_path(export_qwen.__file__, run_name="__main__")
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert [option for option in OPTIONS if option not in text] == []
    assert "--dtype" not in text


def test_the_weights_are_the_released_ones_under_the_names_of_the_hub(exported, released):
    prefix = "wallaroo."
    expected = {key.removeprefix(prefix): value for key, value in released.state().items() if key.startswith(prefix)}
    released.same(released.weights(exported), expected)
    assert {key.split(".")[0] for key in expected} == {"visual", "model", "lm_head"}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"} <= expected.keys()


def test_stock_transformers_answers_the_same(exported, shared_model, question):
    stock = stock_model(exported)
    assert type(stock.config).__name__ == "Qwen2_5_VLConfig"
    with torch.no_grad():
        assert_close(stock(**question).logits, shared_model(**question).logits, LOGITS)
    answer = shared_model.generate(**question, task="understand", max_new_tokens=6)
    assert torch.equal(stock.generate(**question, max_new_tokens=6), answer)


def test_stock_transformers_gives_the_reference_logits(exported):
    """From the files of the folder alone: its chat template, tokenizer and image processor."""
    facts, tensors = case("understand")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = torch.tensor(facts["input_ids"])
    patches = (ids == 532).sum()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": facts["question"]}]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == facts["prompt"]
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * patches)
    assert tokenizer(prompt)["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        logits = stock_model(exported)(
            input_ids=ids,
            mm_token_type_ids=(ids == 532).long(),
            pixel_values=tensors["pixel_values"],
            image_grid_thw=torch.tensor(facts["image_grid_thw"]),
        ).logits
    assert_close(logits[:, -1], tensors["logits_last"], LOGITS)


def test_nothing_in_the_folder_asks_for_this_package(exported):
    files = {path.name: path for path in exported.iterdir()}
    assert not [name for name in files if name.endswith(".py")]
    for name, path in files.items():
        if name.endswith(".json"):
            text = path.read_text(encoding="utf-8")
            assert "auto_map" not in text, name
            assert not re.search(r"Wallaroo[A-Z]|_wallaroo", text), name  # our classes and modules
    config = json.loads(files["config.json"].read_text())
    assert config["model_type"] == "qwen2_5_vl"
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert (config["image_token_id"], config["vision_end_token_id"], config["dtype"]) == (532, 530, "float32")
    assert config["text_config"]["vocab_size"] == 640
    assert not {"vq_config", "mlp_hidden_sizes", "eol_token_id", "generate_start_token_id"} & config.keys()


def test_tokenizer_and_preprocessor_files(exported, processor, picture):
    settings = json.loads((exported / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "Qwen2VLImageProcessor"
    assert settings["processor_class"] == "Qwen2_5_VLProcessor"
    assert (settings["min_pixels"], settings["max_pixels"]) == (12544, 188160)
    assert (settings["patch_size"], settings["temporal_patch_size"], settings["merge_size"]) == (14, 2, 2)
    expected = processor.image_processor(picture, return_tensors="pt")
    actual = Qwen2VLImageProcessorPil.from_pretrained(exported)(picture, return_tensors="pt")
    assert torch.equal(actual["image_grid_thw"], expected["image_grid_thw"])
    assert torch.equal(actual["pixel_values"], expected["pixel_values"])

    tokenizer_config = json.loads((exported / "tokenizer_config.json").read_text())
    assert tokenizer_config["processor_class"] == "Qwen2_5_VLProcessor"
    assert not {"local_files_only", "is_local", "name_or_path"} & tokenizer_config.keys()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    text = "<|im_start|>user\nEin Känguru, 袋鼠 <|image_pad|><|im_end|>\n<|end_of_line|>"
    assert tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]
    assert len(tokenizer) == 560
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    template = json.loads((exported / "chat_template.json").read_text())["chat_template"]
    assert template == processor.chat_template
    assert GenerationConfig.from_pretrained(exported).eos_token_id == [522, 520]


def test_dtypes_are_kept(released, question):
    released.convert(dtype=torch.bfloat16)
    output = released.folder / "exported"
    export_qwen.export_qwen(released.output, output)
    assert {value.dtype for value in released.weights(output).values()} == {torch.bfloat16}
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    stock, model = stock_model(output), AutoModel.from_pretrained(released.output).eval()
    assert stock.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(stock(**question).logits, model(**question).logits)


def test_shards(converted, exported, released, shard_memory):
    export_qwen.export_qwen(converted, released.output, max_shard_size="200KB")
    assert len(list(released.output.glob("*.safetensors"))) == len(shard_memory.bytes_written) > 3
    assert max(shard_memory.bytes_written) <= 200_000
    assert shard_memory.bytes_left == 0
    released.same(released.weights(released.output), released.weights(exported))
    stock_model(released.output)


def test_a_sharded_wallaroo(released, exported):
    released.convert(max_shard_size="500KB")
    output = released.folder / "exported"
    export_qwen.export_qwen(released.output, output)
    assert released.content(output) == released.content(exported)


def test_a_wallaroo_that_save_pretrained_wrote(shared_model, processor, exported, released):
    shared_model.save_pretrained(released.folder / "trained")
    processor.save_pretrained(released.folder / "trained")
    export_qwen.export_qwen(released.folder / "trained", released.output)
    released.same(released.weights(released.output), released.weights(exported))


def test_idempotent(converted, exported, released):
    for _ in range(2):
        export_qwen.export_qwen(converted, released.output)
        assert released.content(released.output) == released.content(exported)
    assert list(released.output.parent.iterdir()) == [released.output]


# ------------------------------------------------------------------ round trips


def test_init_of_an_export_has_the_same_weights(converted, exported, released):
    init_from_qwen.init_from_qwen(exported, released.vq, released.output, torch.float32)
    taken = ("model.visual.", "model.language_model.", "lm_head.", VQ)
    expected = {key: value for key, value in released.weights(converted).items() if key.startswith(taken)}
    weights = released.weights(released.output)
    released.same({key: value for key, value in weights.items() if key.startswith(taken)}, expected)
    assert len(weights) - len(expected) == 18
    assert (released.output / "config.json").read_text() == (converted / "config.json").read_text()
    tokenizer, first = AutoTokenizer.from_pretrained(released.output), AutoTokenizer.from_pretrained(converted)
    assert tokenizer.get_vocab() == first.get_vocab()


@pytest.mark.parametrize("tied", [False, True])
def test_export_of_an_init_is_the_stock_model(tied, released, question):
    released.change_json("config.json", tie_word_embeddings=tied)
    original = released.save_qwen()
    init_from_qwen.init_from_qwen(released.base, released.vq, released.output, torch.float32)
    output = released.folder / "exported"
    export_qwen.export_qwen(released.output, output)
    released.same(released.weights(output), released.weights(released.base))
    assert ("lm_head.weight" in released.weights(output)) is not tied
    stock = stock_model(output)
    assert stock.config.tie_word_embeddings is tied
    assert (stock.lm_head.weight.data_ptr() == stock.get_input_embeddings().weight.data_ptr()) is tied
    with torch.no_grad():
        assert torch.equal(stock(**question).logits, original(**question).logits)


# ------------------------------------------------------------------ what is refused


def test_a_folder_of_another_model(released, refused):
    released.save_qwen()
    message = refused(export_qwen.main, arguments(released.base, released.output))
    assert f"{released.base} is of model type 'qwen2_5_vl', but expected 'wallaroo'." == message


def test_a_missing_folder(released, refused):
    message = refused(export_qwen.main, arguments(released.folder / "absent", released.output))
    assert f"{released.folder / 'absent'} has no readable config" in message


@pytest.fixture
def broken(converted, released) -> Path:
    """A copy of the converted folder, to be spoiled."""
    return Path(shutil.copytree(converted, released.folder / "broken"))


def test_a_broken_config(broken, released, refused):
    (broken / "config.json").write_text("{")
    assert f"{broken} has no readable config" in refused(export_qwen.main, arguments(broken, released.output))


def test_a_folder_without_weights(broken, released, refused):
    (broken / "model.safetensors").unlink()
    assert f"{broken} has no *.safetensors files." in refused(export_qwen.main, arguments(broken, released.output))


def test_truncated_weights(broken, released, refused):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    message = refused(export_qwen.main, arguments(broken, released.output))
    assert f"{file} cannot be read as safetensors; it is truncated" in message


def test_keys_are_strict_both_ways(broken, released, refused):
    weights = released.weights(broken)
    del weights["editing_head.fc1.bias"]
    weights["model.language_model.norm.weight"] = torch.zeros(63)
    weights["model.language_model.norm.bias"] = torch.zeros(64)
    writing.save_file(weights, broken / "model.safetensors")
    message = refused(export_qwen.main, arguments(broken, released.output))
    assert "1 unknown keys: model.language_model.norm.bias" in message
    assert "1 missing keys: editing_head.fc1.bias" in message
    assert "1 misshaped keys: model.language_model.norm.weight (63,), expected (64,)" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "generation_config.json"])
@pytest.mark.parametrize("spoilt", ["missing", "truncated"])
def test_other_files_that_are_missing_or_broken(name, spoilt, broken, released, refused):
    path = broken / name
    if spoilt == "missing":
        path.unlink()
        if name == "tokenizer.json":
            (broken / "tokenizer_config.json").unlink()
    else:
        path.write_text(path.read_text()[:40])
    assert str(broken) in refused(export_qwen.main, arguments(broken, released.output))


def test_the_checkpoint_as_output_is_refused(broken, released, capsys):
    before = released.content(broken)
    assert export_qwen.main(arguments(broken, broken)) == 1
    assert "exists and is no earlier result" in capsys.readouterr().err
    assert released.content(broken) == before


def test_a_stock_qwen_folder_as_output_is_left_alone(converted, released, capsys):
    """It is of the type that this command writes, but it did not write it."""
    released.save_qwen()
    before = released.content(released.base)
    assert export_qwen.main(arguments(converted, released.base)) == 1
    assert "exists and is no earlier result" in capsys.readouterr().err
    assert released.content(released.base) == before


def test_failure_midway_leaves_nothing(converted, released, monkeypatch):
    def save_file(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(writing, "save_file", save_file)
    with pytest.raises(OSError, match="no space left"):
        export_qwen.export_qwen(converted, released.output)
    assert list(released.output.parent.iterdir()) == []
