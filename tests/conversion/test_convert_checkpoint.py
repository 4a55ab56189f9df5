"""conversion/convert_checkpoint.py: the released files in, a folder that loads out."""

import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

from transformers_wallaroo.configuration_wallaroo import MLP_NAMES
from transformers_wallaroo.conversion import configs, writing

import conversion_commands
import convert_checkpoint
from killing import killed_at
from reference import LOGITS, assert_close, case, images

VQ = "model.vq_model."
EDITING = ("model.source_adapter.", "model.editing_adapter.", "editing_head.")
RELEASED_EDITING = ("pixel_adapter", "edit_input_adpater", "edit_image_head")
OPTIONS = (
    "--base",
    "--checkpoint",
    "--vq-checkpoint",
    "--output",
    "--dtype",
    "--stage",
    "--max-shard-size",
    "--push-to-hub",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def without_editing(state, parts=RELEASED_EDITING):
    return {key: value for key, value in state.items() if not key.startswith(tuple(parts))}


# ------------------------------------------------------------------ the command line


def test_main_converts_and_reports(released, capsys):
    assert convert_checkpoint.main(released.arguments("--dtype", "float32")) == 0
    out, err = capsys.readouterr()
    assert out == f"dropped quantize.codebook_used\nwrote {released.output}\n"
    assert "error" not in err
    facts, tensors = case("understand")
    model = AutoModel.from_pretrained(released.output).eval()
    processor = AutoProcessor.from_pretrained(released.output)
    inputs = processor(text=facts["prompt"], images=images("understand.png"), return_tensors="pt")
    with torch.no_grad():
        assert_close(model(**inputs, logits_to_keep=1).logits[:, -1], tensors["logits_last"], LOGITS)


def test_dtype_is_bfloat16_unless_told_otherwise(released):
    assert convert_checkpoint.main(released.arguments()) == 0
    assert released.weights(released.output)["lm_head.weight"].dtype == torch.bfloat16


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", "--help"])
    with pytest.raises(SystemExit) as exit_status:
        runpy.run_path(convert_checkpoint.__file__, run_name="__main__")
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert [option for option in OPTIONS if option not in text] == []
    assert all(dtype in text for dtype in DTYPES)


@pytest.mark.parametrize("missing", ["--base", "--checkpoint", "--vq-checkpoint", "--output"])
def test_required_options(missing, released, capsys):
    arguments = released.arguments()
    at = arguments.index(missing)
    with pytest.raises(SystemExit) as exit_status:
        convert_checkpoint.main(arguments[:at] + arguments[at + 2 :])
    assert exit_status.value.code == 2
    assert missing in capsys.readouterr().err


def test_unknown_dtype_is_refused(released, capsys):
    with pytest.raises(SystemExit) as exit_status:
        convert_checkpoint.main(released.arguments("--dtype", "float8"))
    assert exit_status.value.code == 2
    assert "float8" in capsys.readouterr().err
    assert not released.output.exists()


@pytest.mark.parametrize("size", ["much", "0"])
def test_bad_shard_size_is_an_error_not_a_traceback(size, released, refused):
    assert "shard" in refused(convert_checkpoint.main, released.arguments("--max-shard-size", size)).lower()


class Hub:
    """Stands in for HfApi: notes what it is asked for."""

    calls: list

    def create_repo(self, *args, **kwargs):
        self.calls.append(("create_repo", args, kwargs))

    def upload_folder(self, **kwargs):
        files = {path.name for path in Path(kwargs["folder_path"]).iterdir()}
        self.calls.append(("upload_folder", files, kwargs))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr(conversion_commands, "HfApi", Hub)
    return Hub


def test_push_to_hub_uploads_the_finished_folder(released, hub, capsys):
    assert convert_checkpoint.main(released.arguments("--push-to-hub", "someone/wallaroo")) == 0
    (create, create_args, create_kwargs), (upload, files, upload_kwargs) = hub.calls
    assert (create, create_args, create_kwargs["exist_ok"]) == ("create_repo", ("someone/wallaroo",), True)
    assert (upload, upload_kwargs["repo_id"]) == ("upload_folder", "someone/wallaroo")
    assert Path(upload_kwargs["folder_path"]) == released.output
    assert {"config.json", "model.safetensors", "modeling_wallaroo.py", "tokenizer.json"} <= files
    assert capsys.readouterr().out.endswith("pushed to someone/wallaroo\n")


def test_nothing_is_pushed_unless_asked_for_or_after_an_error(released, hub, refused):
    assert convert_checkpoint.main(released.arguments()) == 0
    released.output = released.folder / "second" / "out"
    released.save({"foreign": torch.zeros(2)})
    refused(convert_checkpoint.main, released.arguments("--push-to-hub", "someone/wallaroo"))
    assert hub.calls == []


# ------------------------------------------------------------------ weights and dtypes


def test_every_weight_is_the_released_one(released, converted):
    weights = released.weights(converted)
    expected = {released.ours(key): value.float() for key, value in released.state().items()}
    vq_state = released.vq_state()
    del vq_state["quantize.codebook_used"]
    expected.update((released.ours(key), value.float()) for key, value in vq_state.items())
    codebook = f"{VQ}quantize.embedding.weight"
    expected[codebook] = torch.nn.functional.normalize(expected[codebook], dim=-1)
    released.same(weights, expected)
    norms = weights[codebook].norm(dim=-1)
    assert_close(norms, torch.ones_like(norms), 1e-6)
    released_norms = vq_state["quantize.embedding.weight"].float().norm(dim=-1)
    assert (released_norms - 1).abs().max() > 0.01  # so that the normalisation is seen


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_dtype_of_all_but_the_vq_tokenizer(name, released, converted):
    dtype = DTYPES[name]
    released.convert(dtype=dtype)
    expected = {
        key: value if key.startswith(VQ) else value.to(dtype) for key, value in released.weights(converted).items()
    }
    released.same(released.weights(released.output), expected)
    config = json.loads((released.output / "config.json").read_text())
    assert [config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]] == [name] * 3

    model, info = AutoModel.from_pretrained(released.output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == dtype
    released.same(dict(model.state_dict()), expected)
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {key for key, _ in model.named_parameters() if key.startswith(VQ)}
    model.train()
    assert not any(parameter.requires_grad for parameter in model.model.vq_model.parameters())
    assert not model.model.vq_model.training


def test_released_weights_of_another_dtype_are_accepted(released, converted):
    released.save({key: value.half() for key, value in released.state().items()})  # exact: see the fixtures' README
    released.convert()
    released.same(released.weights(released.output), released.weights(converted))


def test_the_folder_has_all_that_loading_needs(released, converted):
    files = set(released.content(converted))
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json"} <= files
    config = json.loads((converted / "config.json").read_text())
    modules = {entry.split(".")[0] for entry in config["auto_map"].values()}
    assert {f"{module}.py" for module in modules} <= files
    assert config["architectures"] == ["WallarooForConditionalGeneration"]
    generation = json.loads((converted / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([522, 520], 520)
    assert not {"temperature", "do_sample", "repetition_penalty"} & generation.keys()
    assert converted.stat().st_mode & 0o777 == 0o755
    assert (converted / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_folder_says_nothing_of_the_machine_it_was_made_on(released):
    """Else the same files would come out differently elsewhere, or without a network."""
    released.convert()
    for name, content in released.content(released.output).items():
        assert str(released.folder).encode() not in content, name
    tokenizer_config = json.loads((released.output / "tokenizer_config.json").read_text())
    assert not {"local_files_only", "is_local", "name_or_path"} & tokenizer_config.keys()


@pytest.mark.parametrize("source", ["chat_template.json", "tokenizer_config.json", "chat_template.jinja"])
def test_the_chat_template_may_be_in_any_usual_place(source, released):
    template = json.loads((released.base / "chat_template.json").read_text())["chat_template"]
    if source != "tokenizer_config.json":
        released.change_json("tokenizer_config.json", chat_template=None)
    if source != "chat_template.json":
        (released.base / "chat_template.json").unlink()
    if source == "chat_template.jinja":
        (released.base / source).write_text(template)
    assert configs.make_processor(released.base).chat_template == template


# ------------------------------------------------------------------ shards and memory


def test_shards_load_to_the_same_weights(released, converted):
    released.convert(max_shard_size="1MB")
    shards = sorted(released.output.glob("*.safetensors"))
    assert len(shards) >= 5
    assert not (released.output / "model.safetensors").exists()
    expected = released.weights(converted)
    released.same(released.weights(released.output), expected)
    index = json.loads((released.output / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(expected)
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())
    assert all(shard.stat().st_mode & 0o777 == 0o644 for shard in shards)
    model, info = AutoModel.from_pretrained(released.output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    released.same(dict(model.state_dict()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_than_one_shard_is_in_memory(dtype, released, shard_memory):
    released.convert(dtype=dtype, max_shard_size="500KB")
    assert len(shard_memory.bytes_written) >= 10
    assert max(shard_memory.bytes_written) <= 500_000
    assert shard_memory.bytes_left == 0


def test_a_tensor_larger_than_a_shard_gets_its_own(released, converted, shard_memory):
    released.convert(max_shard_size="1KB")
    expected = released.weights(converted)
    released.same(released.weights(released.output), expected)
    assert max(shard_memory.bytes_written) == max(value.nbytes for value in expected.values())


# ------------------------------------------------------------------ what released files look like


def test_module_prefixes_are_stripped(released, converted):
    released.save({f"module.module.{key}": value for key, value in released.state().items()})
    released.save_vq({f"module.{key}": value for key, value in released.vq_state().items()})
    assert released.convert() == ["dropped quantize.codebook_used"]
    released.same(released.weights(released.output), released.weights(converted))


def test_state_dicts_without_the_wrapper(released, converted):
    state, vq_state = released.state(), released.vq_state()
    released.checkpoint, released.vq = released.folder / "raw.ckpt", released.folder / "raw_vq.pt"
    torch.save(state, released.checkpoint)
    torch.save(vq_state, released.vq)
    assert released.convert() == ["dropped quantize.codebook_used"]
    released.same(released.weights(released.output), released.weights(converted))


def test_a_file_of_the_format_before_torch_1_6(released, converted):
    released.save(released.state(), _use_new_zipfile_serialization=False)
    released.convert()
    released.same(released.weights(released.output), released.weights(converted))


def test_a_vq_checkpoint_without_the_statistic(released, converted):
    vq_state = released.vq_state()
    del vq_state["quantize.codebook_used"]
    released.save_vq(vq_state)
    assert released.convert() == []
    released.same(released.weights(released.output), released.weights(converted))


# ------------------------------------------------------------------ stages 1 to 3


def test_the_parts_of_stage_4_may_be_missing(released, converted):
    state = released.state()
    kept = without_editing(state)
    fresh = {released.ours(key) for key in state.keys() - kept.keys()}
    released.save(kept)
    report = released.convert()
    assert report[0] == "dropped quantize.codebook_used"
    why = "the checkpoint is of stage 1, 2 or 3"
    assert sorted(report[1:]) == sorted(f"newly initialised {key} ({why})" for key in fresh)
    weights, whole = released.weights(released.output), released.weights(converted)
    released.same(
        {key: value for key, value in weights.items() if key not in fresh},
        {key: value for key, value in whole.items() if key not in fresh},
    )
    assert {key: weights[key].shape for key in fresh} == {key: whole[key].shape for key in fresh}


@pytest.mark.parametrize("part", RELEASED_EDITING)
def test_a_single_part_of_stage_4_may_not_be_missing(part, released, capsys):
    released.save(without_editing(released.state(), [part]))
    assert convert_checkpoint.main(released.arguments()) == 1
    assert "missing keys: " in capsys.readouterr().err
    assert not released.output.exists()


def test_new_parts_are_initialised_as_the_model_would(released):
    released.save(without_editing(released.state()))
    released.convert()
    weights = {key: v for key, v in released.weights(released.output).items() if key.startswith(EDITING)}
    assert len(weights) == 11
    for key, value in weights.items():
        bound = weights[f"{key.rpartition('.')[0]}.weight"].shape[1] ** -0.5
        assert value.abs().max() <= bound * 1.01, key  # bf16 rounds
        # Four standard errors of a sample of this size; the same for the mean.
        assert value.std().item() == pytest.approx(bound / 3**0.5, rel=4 / (2 * value.numel()) ** 0.5), key
        assert abs(value.mean().item()) < 4 * bound / (3 * value.numel()) ** 0.5, key
    assert not torch.equal(weights["model.source_adapter.fc1.weight"], weights["model.editing_adapter.fc1.weight"])
    assert not torch.equal(weights["model.source_adapter.fc2.weight"], weights["editing_head.fc1.weight"])


def test_new_parts_are_the_same_each_time(released):
    released.save(without_editing(released.state()))
    torch.manual_seed(1)
    released.convert()
    first = released.content(released.output)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    released.convert()
    assert torch.equal(torch.get_rng_state(), state)
    assert released.content(released.output) == first


def test_an_early_checkpoint_loads_and_edits(released, processor, picture):
    released.save(without_editing(released.state()))
    released.convert()
    model, info = AutoModel.from_pretrained(released.output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = processor(text="brighter", images=picture, task="edit", height=32, width=48, return_tensors="pt")
    assert model.generate(**inputs, seed=1, return_dict_in_generate=True).codes[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("pixel_adapter.2.bias", "model.source_adapter.fc2.bias"),
        ("edit_input_adpater.0.weight", "model.editing_adapter.fc1.weight"),
        ("edit_image_head.2.weight", "editing_head.fc2.weight"),
    ],
)
def test_half_a_part_is_an_error(key, ours, released, refused):
    state = released.state()
    del state[key]
    released.save(state)
    message = refused(convert_checkpoint.main, released.arguments())
    assert f"1 missing keys: {ours}." in message
    assert "unknown" not in message


def test_parts_of_stage_1_must_be_there(released, refused):
    released.save(without_editing(released.state(), ["gen_image_head"]))
    message = refused(convert_checkpoint.main, released.arguments())
    assert "3 missing keys" in message
    assert all(name in message for name in ("generation_head.fc1.weight", "fc1.bias", "generation_head.fc2.weight"))


@pytest.mark.parametrize(
    ("stage", "size", "max_pixels"),
    [("1", (384, 384), 1003520), ("2", (384, 384), 254016), ("3a", (512, 512), 254016), ("3b", None, 254016)],
)
def test_the_processor_of_a_stage(stage, size, max_pixels, released):
    """docs/protocol.md sections 3, 4 and 9: squares without row ends and size tokens up to 3a."""
    assert convert_checkpoint.main(released.arguments("--stage", stage)) == 0
    processor = AutoProcessor.from_pretrained(released.output)
    assert processor.image_processor.size["longest_edge"] == max_pixels
    assert processor.row_ends == AutoConfig.from_pretrained(released.output).row_ends == (size is None)
    assert processor.size_indicators == ("token" if size is None else "none")
    if size is not None:
        assert processor.image_processor.bucket_of(9, 16) == size
        text = processor.tokenizer.decode(processor(text="a cat", task="generate")["input_ids"][0])
        assert "<indicator:" not in text
        model = AutoModel.from_pretrained(released.output)
        inputs = processor(text="a cat", task="generate", height=32, width=32, return_tensors="pt")
        assert model.decode_image_tokens(model.generate(**inputs, seed=1))[0].shape == (3, 32, 32)


# ------------------------------------------------------------------ widths


def test_widths_follow_from_the_weights(released, converted):
    widths = dict(zip(MLP_NAMES, (48, 80, 72, 56, 88), strict=True))
    model = released.save_random(
        converted,
        mlp_hidden_sizes=widths,
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1, 2, 1, 3],
            "num_res_blocks": 1,
            "latent_channels": 16,
            "embed_dim": 6,
            "num_embeddings": 100,
        },
    )
    assert released.convert() == []
    config = AutoConfig.from_pretrained(released.output)
    assert config.mlp_hidden_sizes == widths
    vq_config = config.vq_config
    assert (vq_config.base_channels, list(vq_config.channel_multiplier)) == (32, [1, 2, 1, 3])
    assert (vq_config.num_res_blocks, vq_config.latent_channels) == (1, 16)
    assert (vq_config.num_embeddings, vq_config.embed_dim, vq_config.downsample_factor) == (100, 6, 8)

    expected = dict(model.state_dict())
    codebook = f"{VQ}quantize.embedding.weight"
    expected[codebook] = torch.nn.functional.normalize(expected[codebook], dim=-1)
    loaded = AutoModel.from_pretrained(released.output).eval()
    released.same(dict(loaded.state_dict()), expected)

    processor = AutoProcessor.from_pretrained(released.output)
    inputs = processor(text="a red kangaroo", task="generate", height=24, width=40, return_tensors="pt")
    result = loaded.generate(**inputs, seed=3, return_dict_in_generate=True)
    assert result.codes[0].shape == (3, 5)
    assert result.codes[0].max() < 100
    pixels = loaded.decode_image_tokens(result.sequences)
    (image,) = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert image.size == (40, 24)
    same = model.generate(**inputs, seed=3, return_dict_in_generate=True)
    assert torch.equal(same.codes[0], result.codes[0])


def test_an_early_checkpoint_of_other_widths(released, converted):
    """What is missing is as wide as the language model, and only widths that differ from it are written down."""
    widths = {"generation_head": 48, "generation_adapter": 64, "editing_head": 80}
    released.save_random(converted, mlp_hidden_sizes=widths)
    released.save(without_editing(released.state()))
    released.convert()
    assert AutoConfig.from_pretrained(released.output).mlp_hidden_sizes == {"generation_head": 48}
    assert released.weights(released.output)["editing_head.fc1.weight"].shape == (64, 64)


# ------------------------------------------------------------------ tied embeddings


@pytest.mark.parametrize("head", ["equal", "absent"])
def test_tied_embeddings(head, released):
    released.change_json("config.json", tie_word_embeddings=True)
    state = released.state()
    table = state["wallaroo.model.embed_tokens.weight"]
    del state["wallaroo.lm_head.weight"]
    if head != "absent":
        state["wallaroo.lm_head.weight"] = table.clone()
    released.save(state)
    released.convert()
    assert "lm_head.weight" not in released.weights(released.output)
    model, info = AutoModel.from_pretrained(released.output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert torch.equal(model.lm_head.weight, table)


def test_tied_config_but_different_head(released, refused):
    released.change_json("config.json", tie_word_embeddings=True)
    message = refused(convert_checkpoint.main, released.arguments())
    assert "tie_word_embeddings" in message
    assert "lm_head.weight differs" in message


def test_untied_head_that_shares_its_storage(released):
    state = released.state()
    state["wallaroo.lm_head.weight"] = state["wallaroo.model.embed_tokens.weight"]
    released.save(state)
    released.convert()
    model = AutoModel.from_pretrained(released.output)
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


# ------------------------------------------------------------------ whole or not at all


def test_idempotent(released):
    first, second = released.folder / "first", released.folder / "second"
    for released.output in (first, second, first):
        released.convert(max_shard_size="3MB")
    content = released.content(first)
    assert len([name for name in content if name.endswith(".safetensors")]) > 1
    assert content == released.content(second)
    assert sorted(path.name for path in released.folder.iterdir()) == ["base", "first", "second"]


def test_an_earlier_result_is_replaced_whole(released):
    released.convert(max_shard_size="1MB")
    assert (released.output / "model.safetensors.index.json").exists()
    released.convert(dtype=torch.bfloat16)
    names = set(released.content(released.output))
    assert "model.safetensors" in names
    assert not {name for name in names if "-of-" in name or name.endswith("index.json")}
    assert released.weights(released.output)["lm_head.weight"].dtype == torch.bfloat16
    assert list(released.output.parent.iterdir()) == [released.output]


def test_an_empty_output_folder_is_used(released):
    released.output.mkdir(parents=True)
    released.convert()
    assert (released.output / "config.json").exists()


@pytest.mark.parametrize(("error", "earlier"), [(OSError, True), (KeyboardInterrupt, True), (OSError, False)])
def test_failure_midway_leaves_all_as_it_was(error, earlier, released, monkeypatch):
    if earlier:
        released.convert()
    before = released.content(released.folder)
    calls = []

    def save_file(tensors, *args, **kwargs):
        calls.append(len(tensors))
        if len(calls) == 2:
            raise error("no space left on device")
        real(tensors, *args, **kwargs)

    real = writing.save_file
    monkeypatch.setattr(writing, "save_file", save_file)
    with pytest.raises(error, match="no space left"):
        released.convert(max_shard_size="1MB")
    assert len(calls) == 2
    assert released.content(released.folder) == before
    assert [path for path in released.output.parent.iterdir() if path != released.output] == []
    assert released.output.exists() == earlier


@pytest.mark.parametrize("earlier", [True, False])
def test_a_kill_midway_leaves_what_was_there_and_the_same_command_ends(earlier, released):
    """What was half written stays in a hidden folder beside it until the next run into the same output; nothing takes
    that for a checkpoint."""
    if earlier:
        released.convert()
        before = released.content(released.output)
    killed_at(writing, "save_file", 2, lambda: released.convert(max_shard_size="1MB"))
    assert released.output.exists() == earlier
    if earlier:
        assert released.content(released.output) == before
    left = [path for path in released.output.parent.iterdir() if path != released.output]
    assert [path.name.startswith(f".{released.output.name}.") for path in left] == [True]
    assert not (left[0] / writing.RECORD).exists()
    released.convert(max_shard_size="1MB")
    assert len(list(released.output.glob("*.safetensors"))) > 1
    assert list(released.output.parent.iterdir()) == [released.output]


def test_a_kill_between_the_last_two_steps_does_not_lose_the_earlier_result(released, monkeypatch):
    """It was moved out of the way, and the new one, whole as it is, is not yet in its place."""
    released.convert()
    before = released.content(released.output)
    killed_at(Path, "rename", 1, lambda: released.convert(dtype=torch.bfloat16), after=True)
    assert not released.output.exists() and len(list(released.output.parent.iterdir())) == 2

    def fail(*_args, **_options):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "save_file", fail)
        with pytest.raises(OSError, match="no space left"):
            released.convert(dtype=torch.bfloat16)
    assert released.content(released.output) == before
    assert list(released.output.parent.iterdir()) == [released.output]


def test_only_what_the_dead_left_is_removed(released):
    """Not what a process that runs is writing, nor what may be another machine's, nor what is another output's."""
    ended = multiprocessing.get_context("fork").Process(target=os.getpid)
    ended.start()
    ended.join()
    machine, name, dead = writing._machine(), released.output.name, ended.pid
    mine = f".{name}.{machine}-{os.getpid()}.abc.new"
    writing._made.add(mine)
    kept = [
        mine,
        f".{name}.{machine}-{os.getppid()}.abc.old",
        f".{name}.x{machine}-{dead}.abc.new",
        f".{name}.more.{machine}-{dead}.abc.new",
        f".{name}.mine",
    ]
    # A process before this one may have had its number.
    left = [f".{name}.{machine}-{number}.abd.{kind}" for number in (dead, os.getpid()) for kind in ("new", "old")]
    for folder in (*kept, *left):
        (released.output.parent / folder / "config").mkdir(parents=True)
    released.convert()
    assert {path.name for path in released.output.parent.iterdir()} == {name, *kept}


def test_failure_of_the_last_step_brings_the_earlier_result_back(released, monkeypatch):
    released.convert()
    before = released.content(released.folder)
    real = Path.rename

    def rename(self, target):
        if Path(target) == released.output and self.name.startswith(".") and ".old." not in str(self):
            raise OSError("no permission")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no permission"):
        released.convert(dtype=torch.bfloat16)
    monkeypatch.undo()
    assert released.content(released.folder) == before
    assert list(released.output.parent.iterdir()) == [released.output]


@pytest.mark.parametrize("config", [None, "{}", "{", "[]", '{"model_type": "qwen2_5_vl"}'])
def test_a_foreign_folder_is_left_alone(config, released, capsys):
    released.output.mkdir(parents=True)
    (released.output / "notes.txt").write_text("mine")
    if config is not None:
        (released.output / "config.json").write_text(config)
    before = released.content(released.folder)
    assert convert_checkpoint.main(released.arguments()) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {released.output} exists and is no earlier result")
    assert "Nothing was written" in message
    assert released.content(released.folder) == before
    assert list(released.output.parent.iterdir()) == [released.output]


def test_an_output_that_is_a_file(released, capsys):
    released.output.parent.mkdir()
    released.output.write_text("mine")
    assert convert_checkpoint.main(released.arguments()) == 1
    assert f"{released.output} exists and is no earlier result" in capsys.readouterr().err
    assert released.output.read_text() == "mine"


def test_the_base_folder_as_output_is_refused(released, capsys):
    released.output = released.base
    before = released.content(released.folder)
    assert convert_checkpoint.main(released.arguments()) == 1
    assert "exists and is no earlier result" in capsys.readouterr().err
    assert released.content(released.folder) == before


def test_an_output_in_a_relative_folder(released, monkeypatch):
    monkeypatch.chdir(released.folder)
    released.output = Path("made/here")
    released.convert()
    assert (released.folder / "made" / "here" / "config.json").exists()


def test_a_result_that_was_trained_since_is_left_alone(released, capsys):
    """The same names and shapes as an earlier result, but other weights."""
    released.convert()
    weights = released.weights(released.output)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    save_file(weights, released.output / "model.safetensors", metadata={"format": "pt"})
    before = released.content(released.output)
    assert convert_checkpoint.main(released.arguments()) == 1
    assert "or its weights were changed since" in capsys.readouterr().err
    assert released.content(released.output) == before
