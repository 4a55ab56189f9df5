"""transformers_wallaroo.conversion: reading, key tables and widths that all conversions share."""

import gc
import re
import weakref

import pytest
import torch
from safetensors.torch import save_file

from transformers_wallaroo import WallarooConfig, WallarooForConditionalGeneration, WallarooVQConfig
from transformers_wallaroo.configuration_wallaroo import MLP_NAMES
from transformers_wallaroo.conversion import DTYPES, CheckpointError, reading
from transformers_wallaroo.conversion.configs import infer_mlp_sizes, infer_vq_config
from transformers_wallaroo.conversion.keys import (
    EXPORT_KEYS,
    QWEN_KEYS,
    VQ_KEYS,
    WALLAROO_KEYS,
    check_keys,
    expected_shapes,
    fresh_weight,
    rename_keys,
)
from transformers_wallaroo.conversion.reading import (
    load_pickled,
    safetensors_loaders,
    state_dict_loaders,
    strip_prefixes,
)


@pytest.fixture(scope="module")
def full_size():
    """Names and shapes of the released 7B, without its memory."""
    return expected_shapes(WallarooConfig())


# ------------------------------------------------------------------ reading


def test_pickled_files_are_mapped_and_no_code_of_theirs_runs(released, monkeypatch):
    asked = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **kwargs: asked.append(kwargs) or real(path, **kwargs))
    load_pickled(released.checkpoint, "state_dict")
    load_pickled(released.vq, "model")
    assert [(kwargs["mmap"], kwargs["weights_only"]) for kwargs in asked] == [(True, True)] * 2


def test_state_dict_loaders_do_not_copy(released):
    state = load_pickled(released.checkpoint, "state_dict")
    loaders = state_dict_loaders(state)
    assert {key: shape for key, (_, shape) in loaders.items()} == {key: v.shape for key, v in state.items()}
    assert all(loaders[key][0]().data_ptr() == value.data_ptr() for key, value in state.items())


def test_safetensors_are_read_one_by_one_and_when_asked(tmp_path, monkeypatch):
    for index in range(2):
        save_file({f"{index}.{name}": torch.full((2, 3), index) for name in "ab"}, tmp_path / f"{index}.safetensors")
    read = []
    real = reading._read_tensor
    monkeypatch.setattr(reading, "_read_tensor", lambda file, key: read.append((file.name, key)) or real(file, key))
    loaders = safetensors_loaders(tmp_path)
    assert {key: tuple(shape) for key, (_, shape) in loaders.items()} == dict.fromkeys(
        ("0.a", "0.b", "1.a", "1.b"), (2, 3)
    )
    assert read == []
    tensor = loaders["1.b"][0]()
    assert torch.equal(tensor, torch.ones(2, 3))
    assert read == [("1.safetensors", "1.b")]
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is None  # nothing is kept


@pytest.mark.parametrize(
    ("key", "stripped"),
    [
        ("a.b", "a.b"),
        ("module.a", "a"),
        ("module.module.a", "a"),
        ("a.module.b", "a.module.b"),
        ("modules.a", "modules.a"),
    ],
)
def test_strip_prefixes(key, stripped):
    assert strip_prefixes(key) == stripped


# ------------------------------------------------------------------ keys


def test_rename_keys_takes_the_first_rule_that_fits_the_whole_name():
    table = ((r"a\.(.+)", r"x.\1"), (r"a\.b", "never"), (r"c", None))
    entries = {key: (torch.zeros, torch.Size()) for key in ("a.b", "a.b.c", "c", "cc", "za.b")}
    renamed, dropped, unknown = rename_keys(entries, table)
    assert (sorted(renamed), dropped, unknown) == (["x.b", "x.b.c"], ["c"], ["cc", "za.b"])


@pytest.mark.parametrize("table", [WALLAROO_KEYS, QWEN_KEYS, EXPORT_KEYS, VQ_KEYS])
def test_every_rule_is_a_regular_expression_and_none_repeats(table):
    patterns = [re.compile(pattern).pattern for pattern, _ in table]
    assert len(set(patterns)) == len(patterns)


def test_every_rule_of_the_released_tables_is_used(released):
    for table, state in ((WALLAROO_KEYS, released.state()), (VQ_KEYS, released.vq_state())):
        for rule in table:
            renamed, dropped, _ = rename_keys(state_dict_loaders(state), (rule,))
            assert len(renamed) + len(dropped) > 0, rule


def test_the_tables_name_all_of_the_7b_model(full_size, released):
    """Names and shapes of docs/protocol.md section 1, taken from the full-size config."""
    names = {released.theirs(key): shape for key, shape in full_size.items() if not key.startswith("model.vq_model.")}
    assert {key.split(".")[0] for key in names} == {
        "wallaroo",
        "gen_input_adpater",
        "gen_image_head",
        "pixel_adapter",
        "edit_input_adpater",
        "edit_image_head",
    }
    assert names["wallaroo.lm_head.weight"] == names["wallaroo.model.embed_tokens.weight"] == (152064, 3584)
    assert names["gen_input_adpater.0.weight"] == names["pixel_adapter.0.weight"] == (3584, 8)
    assert names["gen_image_head.2.weight"] == names["edit_image_head.2.weight"] == (16384, 3584)
    assert not {"gen_image_head.2.bias", "edit_image_head.2.bias"} & names.keys()
    entries = {key: (torch.zeros, shape) for key, shape in names.items()}
    vq = {released.theirs(key): shape for key, shape in full_size.items() if key.startswith("model.vq_model.")}
    renamed, dropped, unknown = rename_keys(entries, WALLAROO_KEYS)
    renamed_vq, _, unknown_vq = rename_keys({key: (torch.zeros, shape) for key, shape in vq.items()}, VQ_KEYS)
    assert (dropped, unknown, unknown_vq) == ([], [], [])
    assert check_keys({**renamed, **renamed_vq}, full_size, []) == []
    exported, _, unknown = rename_keys({key: (torch.zeros, shape) for key, shape in full_size.items()}, EXPORT_KEYS)
    assert unknown == []
    back, _, unknown = rename_keys(exported, QWEN_KEYS)
    assert unknown == []
    assert sorted(back) == sorted(
        key for key in full_size if key.startswith(("model.visual.", "model.language_model.", "lm_head."))
    )


def test_check_keys_lets_all_parts_be_missing_or_none():
    expected = {key: torch.Size([2]) for key in ("a.x", "a.y", "b.x", "b.y", "c")}
    entries = {key: (torch.zeros, torch.Size([2])) for key in ("a.x", "a.y", "c")}
    assert check_keys({"c": entries["c"]}, expected, [], may_miss=("a.", "b.")) == ["a.x", "a.y", "b.x", "b.y"]
    assert check_keys(entries, expected, [], may_miss=("b.",)) == ["b.x", "b.y"]
    with pytest.raises(CheckpointError, match=r"2 missing keys: b\.x, b\.y\."):
        check_keys(entries, expected, [], may_miss=("a.", "b."))
    assert check_keys({**entries, "b.x": entries["c"], "b.y": entries["c"]}, expected, [], may_miss=("b.",)) == []
    with pytest.raises(CheckpointError, match=r"2 missing keys: b\.x, b\.y\."):
        check_keys(entries, expected, [], may_miss=("a.",))
    with pytest.raises(CheckpointError, match=r"1 missing keys: b\.y\."):
        check_keys({**entries, "b.x": entries["c"]}, expected, [], may_miss=("b.",))


# ------------------------------------------------------------------ widths and fresh weights


def test_the_released_vq_widths_are_the_defaults(full_size, released):
    prefix = "model.vq_model."
    state = {
        released.theirs(key): torch.empty(shape, device="meta")
        for key, shape in full_size.items()
        if key.startswith(prefix)
    }
    inferred = infer_vq_config(state)
    assert inferred.to_dict() == WallarooVQConfig().to_dict()
    assert (inferred.num_embeddings, inferred.embed_dim, inferred.downsample_factor) == (16384, 8, 16)
    assert (inferred.base_channels, list(inferred.channel_multiplier)) == (128, [1, 1, 2, 2, 4])


def test_infer_mlp_sizes_reads_what_is_there():
    names = ("gen_input_adpater", "edit_input_adpater", "pixel_adapter", "gen_image_head", "edit_image_head")
    state = {f"{name}.0.weight": torch.empty(10 + index, 3) for index, name in enumerate(names)}
    assert infer_mlp_sizes(state) == {name: 10 + index for index, name in enumerate(MLP_NAMES)}
    assert infer_mlp_sizes({"pixel_adapter.0.weight": torch.empty(5, 8)}) == {"source_adapter": 5}
    assert infer_mlp_sizes({}) == {}


def test_fresh_weights_depend_on_their_name_alone():
    shape = torch.Size([64, 64])
    torch.manual_seed(0)
    first = fresh_weight("a.weight", shape, 64)
    torch.manual_seed(1)
    assert torch.equal(fresh_weight("a.weight", shape, 64), first)
    assert torch.equal(fresh_weight("a.weight", shape, 16), first * 2)
    assert not torch.equal(fresh_weight("b.weight", shape, 64), first)
    assert not torch.equal(fresh_weight("weight.a", shape, 64), first)
    assert first.abs().max() <= 1 / 8 and fresh_weight("a.bias", torch.Size([64]), 64).abs().max() <= 1 / 8


def test_expected_shapes_are_those_of_the_model(converted):
    config = WallarooConfig.from_pretrained(converted)
    state = WallarooForConditionalGeneration(config).state_dict()
    assert expected_shapes(config) == {key: value.shape for key, value in state.items()}
    config.tie_word_embeddings = True
    assert set(state) - set(expected_shapes(config)) == {"lm_head.weight"}


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtypes_by_name(name):
    assert DTYPES[name] is getattr(torch, name)
