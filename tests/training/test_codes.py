# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Cached codes: training from them is training from pixels, and making them survives whatever stops it."""

import copy
import dataclasses
import json
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from transformers_wallaroo import WallarooForConditionalGeneration, WallarooVQModel
from transformers_wallaroo.modeling_wallaroo_vq import ENCODE_CHUNK
from transformers_wallaroo.shapes import ShapesDataset
from transformers_wallaroo.training import encoding
from transformers_wallaroo.training.codes import EncodedDataset, tokenizer_hash
from transformers_wallaroo.training.encoding import encode_dataset, encode_recipe, load_tokenizer
from transformers_wallaroo.training.mixture import MixtureDataset
from transformers_wallaroo.training.run import build_trainer, mixture, run_stage
from transformers_wallaroo.training.stages import StageConfig, load_model

from killing import killed_at
from small import collator_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tokenizer(shared_small) -> WallarooVQModel:
    return shared_small[0].model.vq_model


@pytest.fixture
def encode(tokenizer, small_processor, tmp_path):
    """Encodes into a folder of the test and returns what `encoding.json` holds."""

    def run(dataset, name="codes", vq_model=tokenizer, **options):
        options = {"show_progress": False, "shard_size": 4, **options}
        return encode_dataset(dataset, vq_model, small_processor, tmp_path / name, **options)

    return run


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def drawing(rows=70, columns=90, seed=0, **changes):
    """A sample of `generate` with a picture of so many pixels."""
    return {"task": "generate", "prompt": f"number {seed}", "image": noise(rows, columns, seed), **changes}


def rows_of(folder):
    return [row for path in sorted(folder.glob("shard-*.parquet")) for row in datasets.Dataset.from_parquet(str(path))]


def comparable(sample):
    """A sample or row as plain values."""
    return {
        name: value.tobytes() if isinstance(value, (np.ndarray, Image.Image)) else value
        for name, value in sample.items()
    }


class Watched(ShapesDataset):
    """Notes which samples are asked for, and is interrupted at one of them."""

    def __getitem__(self, index):
        self.asked.append(index)
        if index == self.stop_at:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def watched(*arguments, stop_at=None, **options):
    dataset = Watched(*arguments, **options)
    dataset.__dict__.update(asked=[], stop_at=stop_at)
    return dataset


# ---------------------------------------------------------------------- training from codes is training from pixels


@pytest.mark.parametrize("pack_length", [None, 128])
@pytest.mark.parametrize("task", ["generate", "edit"])
def test_training_from_codes_is_training_from_pixels(encode, tmp_path, small_model, small_processor, task, pack_length):
    """Of one size, so that the model's encoder sees as many pictures at once as the one that made the codes: exact."""
    pixels = ShapesDataset(task, 5, 8, bucket=(48, 64))
    encode(pixels)
    sources = {"pixels": pixels, "codes": EncodedDataset(tmp_path / "codes")}
    batches = {}
    for name, source in sources.items():
        mixed = MixtureDataset({task: source}, {task: 1}, 8, seed=3)
        collate = collator_of(
            small_processor,
            code_offset=small_model.config.text_vocab_size,
            pack_length=pack_length,
            unconditional_probability=0.5,
        )
        batches[name] = collate([mixed[position] for position in range(8)])
    from_pixels, from_codes = batches["pixels"], batches["codes"]
    assert "target_pixel_values" in from_pixels and "source_pixel_values" not in from_codes
    ids, labels = small_model._fill_in_codes(
        *(
            from_pixels[name]
            for name in ("input_ids", "labels", "mm_token_type_ids", "target_pixel_values", "target_grid")
        )
    )
    assert torch.equal(from_codes["input_ids"], ids)
    assert torch.equal(from_codes["labels"], labels)
    for name in set(from_pixels) & set(from_codes) - {"input_ids", "labels"}:
        assert torch.equal(from_codes[name], from_pixels[name]), name
    if task == "edit":
        grid, mask = from_pixels["source_grid"], from_pixels["source_mask"]
        expected = small_model.model.embed_source(from_pixels["source_pixel_values"], grid, mask)
        assert torch.equal(small_model.model.embed_source(None, grid, mask, from_codes["source_latents"]), expected)
    losses = [small_model(**batch).loss.item() for batch in (from_codes, from_pixels)]
    assert losses[0] == losses[1]


def test_sizes_are_those_that_the_collator_takes(encode, tmp_path, small_model, small_processor):
    """By bucket, resized and cropped, and as the sample says; a loss of all sizes together, to 1e-5."""
    pixels = [drawing(70, 90, 0), drawing(90, 30, 1), drawing(64, 64, 2), drawing(50, 40, 3, height=32, width=48)]
    encode(pixels)
    codes = EncodedDataset(tmp_path / "codes")
    assert [(sample["height"], sample["width"]) for sample in codes] == [(48, 64), (64, 32), (64, 64), (32, 48)]
    assert [sample["codes"].shape for sample in codes] == [(3, 4), (4, 2), (4, 4), (2, 3)]
    collate = collator_of(small_processor, code_offset=small_model.config.text_vocab_size, unconditional_probability=0)
    losses = []
    for dataset in (pixels, codes):
        batch = collate([{**dataset[index], "seed": index} for index in range(4)])
        losses.append(small_model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_codes_depend_on_the_pixels_alone(encode, tmp_path, tokenizer, monkeypatch):
    """Not on the batch size, nor on the order, nor on what else there is.

    Which numbers of pictures make a convolution add up in another order depends on the machine; so the encoder must
    always get the same number.
    """
    chunks, right = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda pixels: chunks.append(len(pixels)) or right(pixels))
    samples = [*ShapesDataset("edit", 2, 4, bucket=(64, 64)), *ShapesDataset("edit", 3, 2, bucket=(32, 64))]
    encode(samples, "one", batch_size=1)
    encode(samples, "many", batch_size=32, shard_size=100, workers=1)
    encode(samples[::-1], "reversed", batch_size=3)
    encode(samples[4:5], "alone")
    assert set(chunks) == {ENCODE_CHUNK}
    one, many, backwards, alone = (EncodedDataset(tmp_path / name) for name in ("one", "many", "reversed", "alone"))
    assert [comparable(sample) for sample in one] == [comparable(sample) for sample in many]
    assert [comparable(sample) for sample in one] == [comparable(backwards[5 - index]) for index in range(6)]
    assert comparable(alone[0]) == comparable(one[4])


def test_a_sample_keeps_its_plain_fields_and_its_source(encode, tmp_path):
    sample = {
        **ShapesDataset("edit", 2, 1)[0],
        "source_image": noise(70, 90),
        "height": None,
        "width": None,
        "template": "{prompt}",
        "source_mask": np.array([True, False] * 6),
        "score": np.float32(0.5),
    }
    encode([sample])
    kept = EncodedDataset(tmp_path / "codes")[0]
    assert {name: kept[name] for name in ("task", "prompt", "kind", "language", "seed", "template")} == {
        name: sample[name] for name in ("task", "prompt", "kind", "language", "seed", "template")
    }
    assert kept["source_mask"] == [True, False] * 6 and kept["score"] == 0.5
    assert (kept["height"], kept["width"]) == (48, 64)  # the source's bucket
    assert kept["source_image"].tobytes() == sample["source_image"].tobytes()
    assert kept["source_latents"].shape == kept["black_latents"].shape == (12, 8)
    assert not np.allclose(kept["source_latents"], kept["black_latents"])
    assert "meta" not in kept and "image" not in kept


# ---------------------------------------------------------------------- going on, and sharing the work


def test_a_stopped_run_goes_on_where_it_was(encode, tmp_path):
    encode(ShapesDataset("generate", 4, 11), "whole")
    stopped = watched("generate", 4, 11, stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        encode(stopped)
    assert [path.name for path in (tmp_path / "codes").glob("shard-*")] == ["shard-00000-of-00003.parquet"]
    assert not json.loads((tmp_path / "codes" / "encoding.json").read_text())["complete"]
    resumed = watched("generate", 4, 11)
    encoding = encode(resumed)
    assert sorted(set(resumed.asked)) == [0, *range(4, 11)]  # sample 0 tells the task
    assert encoding["complete"] and encoding["samples"] == 11
    assert rows_of(tmp_path / "codes") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("owner", "name", "call", "kept"),
    [
        (ShapesDataset, "__getitem__", 10, 2),  # a sample of the third shard
        (encoding.pq, "write_table", 2, 1),  # the second shard is not begun
        (encoding.os, "replace", 3, 1),  # and here it is written, but has not its name
    ],
)
def test_a_killed_run_goes_on_and_loses_and_redoes_nothing(encode, tmp_path, owner, name, call, kept):
    encode(ShapesDataset("generate", 4, 11), "whole")
    killed_at(owner, name, call, lambda: encode(ShapesDataset("generate", 4, 11)))
    folder = tmp_path / "codes"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("shard-*")}
    assert len(before) == kept and not json.loads((folder / "encoding.json").read_text())["complete"]
    resumed = watched("generate", 4, 11)
    assert encode(resumed)["complete"] and sorted(set(resumed.asked)) == [0, *range(4 * kept, 11)]
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == was for path, was in before.items())
    assert rows_of(folder) == rows_of(tmp_path / "whole") and not list(folder.glob(".*"))


def test_lost_and_damaged_shards_are_made_anew(encode, tmp_path):
    dataset = ShapesDataset("generate", 4, 11)
    encode(dataset)
    expected, folder = rows_of(tmp_path / "codes"), tmp_path / "codes"
    kept, damaged, lost = sorted(folder.glob("shard-*"))
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:200])
    lost.unlink()
    (folder / f".{lost.name}.partial").write_bytes(b"half a shard")
    with pytest.raises(
        ValueError, match=r"lacks 1 of its 3 shards, such as 'shard-00002-of-00003.parquet'. Encode again"
    ):
        EncodedDataset(folder)
    again = watched("generate", 4, 11)
    assert encode(again)["complete"]
    assert set(again.asked) == {0, *range(4, 11)}
    assert kept.stat().st_mtime_ns == before
    assert rows_of(folder) == expected
    assert not list(folder.glob(".*"))
    assert encode(watched("generate", 4, 11, stop_at=1))["samples"] == 11  # nothing is left to do


def test_two_processes_make_what_one_makes(encode, tmp_path, monkeypatch):
    dataset = ShapesDataset("edit", 4, 10)
    encode(dataset, "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not encode(dataset)["complete"]
    assert [path.name for path in (tmp_path / "codes").glob("shard-*")] == ["shard-00001-of-00003.parquet"]
    with pytest.raises(ValueError, match="lacks 2 of its 3 shards"):
        EncodedDataset(tmp_path / "codes")
    monkeypatch.setenv("RANK", "0")
    together = encode(dataset)
    alone = json.loads((tmp_path / "one" / "encoding.json").read_text())
    assert together == alone and together["complete"]
    assert rows_of(tmp_path / "codes") == rows_of(tmp_path / "one")
    with pytest.raises(ValueError, match=r"`rank` must be in \[0, `world_size`\), but got 2 of 2"):
        encode(dataset, rank=2)


def test_other_settings_in_the_same_folder_are_refused(encode, tokenizer):
    dataset = ShapesDataset("generate", 4, 5)
    encode(dataset, data={"shapes": {"seed": 4}})
    other = copy.deepcopy(tokenizer)
    other.quantize.embedding.weight.data[3] += 1
    with pytest.raises(
        ValueError, match=r"begun with another tokenizer or other settings.*`vq_hash` was '.*Take another"
    ):
        encode(dataset, data={"shapes": {"seed": 4}}, vq_model=other)
    with pytest.raises(ValueError, match="`shard_size` was 4 and is 2"):
        encode(dataset, data={"shapes": {"seed": 4}}, shard_size=2)
    with pytest.raises(ValueError, match=r"`data` was .*4.* and is .*5"):
        encode(dataset, data={"shapes": {"seed": 5}})
    with pytest.raises(ValueError, match="`source_samples` was 5 and is 6"):
        encode(ShapesDataset("generate", 4, 6), data={"shapes": {"seed": 4}})


# ---------------------------------------------------------------------- samples that are left out


def test_a_sample_that_fails_raises_with_its_index(encode):
    samples = [drawing(), drawing(), drawing(image="nowhere.png")]
    with pytest.raises(ValueError, match=r"Sample 2: `image` holds 'nowhere.png', which is no readable picture"):
        encode(samples)
    with pytest.raises(ValueError, match="Sample 1: its task is 'edit', but that of sample 0 is 'generate'"):
        encode([drawing(), ShapesDataset("edit", 1, 1)[0]], "mixed")
    with pytest.raises(ValueError, match="Sample 1: its task is None"):
        encode([drawing(), "a cat"], "wrong")
    with pytest.raises(ValueError, match="Sample 0: it has `codes` already"):
        encode([drawing(codes=[[1]])], "twice")


def test_samples_that_fail_can_be_skipped_and_are_listed(encode, tmp_path):
    samples = [drawing(seed=0), drawing(image="nowhere.png"), drawing(seed=2), *[drawing(image=b"")] * 4]
    encoding = encode(samples, on_error="skip", shard_size=3)
    assert encoding["samples"] == 2
    assert set(encoding["skipped"]) == {"1", "3", "4", "5", "6"}
    assert "nowhere.png" in encoding["skipped"]["1"]
    dataset = EncodedDataset(tmp_path / "codes")  # its last two shards are empty
    assert [sample["prompt"] for sample in dataset] == ["number 0", "number 2"]
    encode([drawing(image=b"")], "none", on_error="skip")
    with pytest.raises(ValueError, match=r"holds no samples: all were left out, see its encoding.json"):
        EncodedDataset(tmp_path / "none")


def test_unwanted_images_are_dropped_as_the_collator_drops_them(encode):
    samples = [drawing(20, 20), drawing(70, 90), drawing(90, 30), drawing(30, 20)]
    encoding = encode(samples, min_side=40, max_ratio=2.0)
    assert encoding["dropped"] == {"too_small": 2, "bad_ratio": 1}
    assert encoding["samples"] == 1 and encoding["skipped"] == {}


def test_length_is_no_reason_to_leave_a_sample_out(encode, small_processor):
    """The recipe's limits are for training; templates and row ends differ."""
    small_processor.max_length = 20
    assert encode([drawing()])["samples"] == 1
    assert small_processor.max_length == 20


def test_arguments_that_make_no_sense_are_refused(encode, small_processor):
    with pytest.raises(ValueError, match=r"`on_error` must be one of .*'raise', 'skip'.*, but got 'ignore'"):
        encode([drawing()], on_error="ignore")
    with pytest.raises(ValueError, match="`dataset` has no samples"):
        encode([])
    with pytest.raises(ValueError, match="`dataset` has samples of 'understand', which have no image"):
        encode(ShapesDataset("understand", 1, 1))
    with pytest.raises(ValueError, match="`shard_size` must be 1 or more, but got 0"):
        encode([drawing()], shard_size=0)
    small_processor.image_processor.downsample_factor = 8
    with pytest.raises(ValueError, match="`processor` has cells of 8 pixels, but `vq_model` has cells of 16"):
        encode([drawing()])


# ---------------------------------------------------------------------- reading


def test_a_part_of_the_samples_can_be_taken_and_sent_to_workers(encode, tmp_path):
    encode(ShapesDataset("edit", 4, 9))
    whole = EncodedDataset(tmp_path / "codes")
    part = pickle.loads(pickle.dumps(EncodedDataset(tmp_path / "codes", start=3, length=5)))
    assert len(whole) == 9 and len(part) == 5
    assert [comparable(sample) for sample in part] == [comparable(whole[index]) for index in range(3, 8)]
    assert comparable(part[-1]) == comparable(whole[7])
    loader = torch.utils.data.DataLoader(part, batch_size=None, num_workers=1, collate_fn=comparable)
    assert list(loader) == [comparable(sample) for sample in part]
    with pytest.raises(IndexError, match=r"`index` must be in \[-5, 5\), but got 5"):
        part[5]


def test_lengths_tell_long_samples_from_short_ones(encode, tmp_path):
    samples = [drawing(64, 64, prompt="a"), drawing(64, 32, prompt="a"), drawing(64, 32, prompt="a" * 80)]
    encode(samples)
    dataset = EncodedDataset(tmp_path / "codes", start=1)
    assert [dataset.length_of(0), dataset.length_of(1)] == [8, 28]
    assert EncodedDataset(tmp_path / "codes").length_of(0) == 16


def test_what_is_no_folder_of_codes_is_refused(encode, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must be a folder that `encode_dataset` wrote.*no encoding.json"):
        EncodedDataset(tmp_path)
    encode(ShapesDataset("generate", 4, 5))
    with pytest.raises(ValueError, match=r"`start` must be in \[0, 5\).*but got 5"):
        EncodedDataset(tmp_path / "codes", start=5)
    with pytest.raises(ValueError, match=r"`length` must be in \[1, 2\].*but got 3"):
        EncodedDataset(tmp_path / "codes", start=3, length=3)
    with pytest.raises(ValueError, match="holds codes for 'generate', but they are wanted for 'edit'"):
        EncodedDataset(tmp_path / "codes", task="edit")
    path = tmp_path / "codes" / "encoding.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "complete": False}))
    with pytest.raises(ValueError, match="was not encoded to its end"):
        EncodedDataset(tmp_path / "codes")
    assert encode(ShapesDataset("generate", 4, 5))["complete"]  # a run that was stopped before its last word


def test_a_folder_that_is_made_anew_is_read_anew(encode, tmp_path):
    """`datasets` keeps a copy in its cache."""
    encode([drawing(seed=0)])
    assert EncodedDataset(tmp_path / "codes")[0]["prompt"] == "number 0"
    for path in (tmp_path / "codes").iterdir():
        path.unlink()
    encode([drawing(seed=1)])
    assert EncodedDataset(tmp_path / "codes")[0]["prompt"] == "number 1"


def test_codes_of_another_tokenizer_are_refused(encode, tmp_path, tokenizer):
    encode(ShapesDataset("generate", 4, 2))
    dataset = EncodedDataset(tmp_path / "codes")
    assert dataset.vq_hash == tokenizer_hash(tokenizer)
    dataset.check_tokenizer(tokenizer)
    other = copy.deepcopy(tokenizer)
    other.decoder.conv_out.bias.data += 1  # the codes stay what they are
    dataset.check_tokenizer(other)
    other.encoder.conv_in.bias.data += 1
    with pytest.raises(
        ValueError, match=r"made by another VQ tokenizer \(.*\) than the model's .*Encode the data set anew"
    ):
        dataset.check_tokenizer(other)


# ---------------------------------------------------------------------- recipes


def recipe(folder, **changes):
    values = {
        "stage": "4",
        "init": str(folder),
        "output": "unused",
        "train": ["language_model"],
        "tasks": {"generate": 2, "edit": 1, "understand": 1},
        "data": {
            "generate": {"shapes": {"seed": 1}},
            "edit": {"shapes": {"seed": 2, "kind": "add"}},
            "understand": {"shapes": {"seed": 3}},
        },
        "steps": 3,
        "gradient_accumulation": 2,
        "learning_rate": 1e-4,
    }
    return StageConfig.from_dict({**values, **changes})


def test_a_recipe_trains_from_the_codes_of_its_images(small_folder, tmp_path, small_model, small_processor):
    config = recipe(small_folder)
    data = encode_recipe(config, tmp_path / "codes", show_progress=False)
    assert data == {
        "generate": {"encoded": {"path": str(tmp_path / "codes" / "generate")}},
        "edit": {"encoded": {"path": str(tmp_path / "codes" / "edit")}},
        "understand": {"shapes": {"seed": 3}},
    }
    mixed = mixture(data, config.tasks, 4 * 6, 0)
    assert {name: len(source) for name, source in mixed.sources.items()} == {"generate": 12, "edit": 6, "understand": 6}
    mixed.sources["edit"].check_tokenizer(small_model.model.vq_model)
    batch = collator_of(small_processor, code_offset=small_model.config.text_vocab_size)([mixed[i] for i in range(4)])
    assert "target_pixel_values" not in batch and "source_latents" in batch
    assert small_model(**batch).losses.keys() >= {"generate_image", "edit_image", "understand_text"}
    encoding = json.loads((tmp_path / "codes" / "edit" / "encoding.json").read_text())
    assert encoding["data"] == {"shapes": {"seed": 2, "kind": "add"}}


def test_as_many_samples_of_a_recipe_as_wished(small_folder, tmp_path):
    config = recipe(small_folder, tasks={"generate": 1}, data={"generate": {"shapes": {}}})
    encode_recipe(config, tmp_path / "codes", samples=2, show_progress=False)
    encoding = json.loads((tmp_path / "codes" / "generate" / "encoding.json").read_text())
    assert encoding["samples"] == 2


def test_a_recipe_without_images_has_nothing_to_encode(small_folder, tmp_path):
    config = recipe(small_folder, tasks={"understand": 1}, data={"understand": {"shapes": {}}})
    with pytest.raises(ValueError, match=r"no images to encode: the tasks of its `data` are \['understand'\]"):
        encode_recipe(config, tmp_path)


def test_only_the_tokenizer_of_a_checkpoint_is_loaded(small_folder, tmp_path, tokenizer, capfd):
    loaded = load_tokenizer(recipe(small_folder))
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert not loaded.training
    assert "UNEXPECTED" not in capfd.readouterr().err
    other = copy.deepcopy(tokenizer)
    other.quant_conv.bias.data += 1
    other.save_pretrained(tmp_path / "vq")
    chosen = load_tokenizer(recipe(small_folder, vq_model=str(tmp_path / "vq")))
    assert tokenizer_hash(chosen) == tokenizer_hash(other) != tokenizer_hash(tokenizer)


@pytest.fixture(scope="module")
def bf16_folder(small_folder, tmp_path_factory):
    """A checkpoint in bfloat16, whose tokenizer holds what no bfloat16 can, as conversion writes it."""
    folder = tmp_path_factory.mktemp("bf16")
    shutil.copytree(small_folder, folder, dirs_exist_ok=True)
    model = WallarooForConditionalGeneration.from_pretrained(small_folder, dtype=torch.bfloat16)
    assert model.model.vq_model.dtype == torch.float32
    model.config.vq_config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    return folder


def test_codes_of_a_checkpoint_in_bfloat16_are_those_of_its_model(bf16_folder, tmp_path, tokenizer):
    """The tokenizer computes in float32 in either; also one from a folder of its own."""
    pixels = {"generate": {"shapes": {"bucket": [32, 64]}}, "edit": {"shapes": {"bucket": [32, 64]}}}
    config = recipe(
        bf16_folder,
        output=str(tmp_path / "run"),
        tasks={"generate": 1, "edit": 1},
        data=pixels,
        steps=1,
        gradient_accumulation=1,
        bf16=False,
    )
    loaded = load_tokenizer(config)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    data = encode_recipe(config, tmp_path / "codes", show_progress=False)
    assert run_stage(dataclasses.replace(config, data=data)).is_dir()
    copy.deepcopy(tokenizer).to(torch.bfloat16).save_pretrained(tmp_path / "vq")
    other = dataclasses.replace(config, vq_model=str(tmp_path / "vq"))
    assert load_tokenizer(other).dtype == load_model(other).model.vq_model.dtype == torch.float32
    assert tokenizer_hash(load_tokenizer(other)) == tokenizer_hash(load_model(other).model.vq_model)


def test_codes_to_evaluate_with_must_be_the_models_own_too(encode, small_folder, tmp_path, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.encoder.conv_in.bias.data += 1
    encode(ShapesDataset("generate", 4, 4), vq_model=other)
    config = recipe(
        small_folder,
        output=str(tmp_path / "run"),
        evaluation={"generate": {"encoded": {"path": str(tmp_path / "codes")}}, "samples": 4},
        eval_steps=1,
        bf16=False,
    )
    with pytest.raises(ValueError, match=r"The codes for 'generate' were made by another VQ tokenizer"):
        build_trainer(config)
