# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Mixtures with weights and filters, and data that is broken: counted, named, passed over within a limit."""

import io
import json
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from transformers_wallaroo.training import mixture as mixture_module
from transformers_wallaroo.training.collator import DROP_REASONS
from transformers_wallaroo.training.data import rows as rows_module
from transformers_wallaroo.training.data.drops import DroppedSample
from transformers_wallaroo.training.data.rows import JsonRows, open_rows
from transformers_wallaroo.training.data.screening import ScreenedDataset
from transformers_wallaroo.training.data.tars import TarFiles
from transformers_wallaroo.training.mixture import MixtureDataset, whole_ratio
from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.sources import open_source
from transformers_wallaroo.training.stages import StageConfig

from published import (
    llava_rows,
    picture_bytes,
    samples,
    write,
    write_blip3o,
    write_commonsense_qa,
    write_gpt_image_edit,
    write_imagenet_parquet,
    write_llava,
    write_opengpt4o_image,
    write_sharegpt4o_image,
    write_tar,
)
from small import collator_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` makes of Parquet, and indices, go with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(rows_module, "HF_HOME", str(tmp_path / "home"))


def picture_folder(folder, files):
    """A folder of pictures, given as bytes, each with a caption."""
    for name, content in files.items():
        write(folder / name, content)
        write((folder / name).with_suffix(".txt"), f"a thing of {name}")
    return {"folder": {"path": str(folder)}}


def encoded(mode, size=(40, 30), kind="png", **options):
    file = io.BytesIO()
    Image.new(mode, size, **options).save(file, kind)
    return file.getvalue()


def reason_of(source, index):
    with pytest.raises(DroppedSample) as caught:
        source[index]
    return caught.value.reason, str(caught.value)


# ---------------------------------------------------------------------- broken data


def test_pictures_of_all_modes_become_rgb(tmp_path, small_processor):
    deep = io.BytesIO()
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(deep, "png")
    files = {
        "a.jpg": encoded("CMYK", kind="jpeg"),
        "b.png": encoded("RGBA"),
        "c.png": encoded("P"),
        "d.png": encoded("L"),
        "e.png": deep.getvalue(),
        "f.png": encoded("1"),
        "g.png": encoded("LA"),
    }
    read = open_source("generate", picture_folder(tmp_path / "pictures", files), 5)
    assert {sample["image"].mode for sample in read} == {"RGB"}
    assert read[4]["image"].getpixel((0, 0)) == (40_000 >> 8,) * 3
    assert len(collator_of(small_processor)(list(read))["target_grid"]) == 7


def test_broken_samples_are_told_apart_and_named(tmp_path):
    whole = picture_bytes(samples("generate", 1)[0]["image"], "jpeg", 4)
    files = {
        "a.jpg": whole,
        "b.jpg": whole[: len(whole) // 2],
        "c.jpg": b"no picture",
        "d.png": encoded("L", (900, 3)),
        "e.jpg": b"",
        "f.png": whole,
    }
    read = open_source("generate", picture_folder(tmp_path / "pictures", files), 5)
    (tmp_path / "pictures" / "f.png").unlink()
    write(tmp_path / "pictures" / "a.txt", " ")
    found = {name: reason_of(read, index) for index, name in enumerate(sorted(files))}
    assert {name: reason for name, (reason, _) in found.items()} == {
        "a.jpg": "mismatch",
        "b.jpg": "unreadable",
        "c.jpg": "unreadable",
        "d.png": "bad_ratio",
        "e.jpg": "unreadable",
        "f.png": "missing_file",
    }
    assert all(name in message for name, (_, message) in found.items())
    assert "a.jpg has an empty prompt" in found["a.jpg"][1]
    assert "truncated or corrupt" in found["b.jpg"][1] and "900 x 3 pixels" in found["d.png"][1]


def test_missing_pictures_are_named_with_their_row(tmp_path):
    rows = llava_rows(2, tmp_path / "images")
    (tmp_path / "images" / rows[1]["image"]).unlink()
    entry = {"llava": {"path": str(write(tmp_path / "a.json", rows)), "images": str(tmp_path / "images")}}
    reason, message = reason_of(open_source("understand", entry, 5), 1)
    assert reason == "missing_file"
    assert f"a.json, row 2 names {rows[1]['image']!r}, which is not in {tmp_path / 'images'}" in message


@pytest.mark.parametrize("cut", [0.3, 0.45, 0.55])
def test_truncated_tars_give_what_is_whole(tmp_path, caplog, cut):
    folder = write_blip3o(tmp_path / "tars", 8, 2)
    tar = folder / "00001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: int(len(content) * cut)])
    read = open_source("generate", {"webdataset": {"path": str(folder)}}, 5)
    prompts = {sample["prompt"] for sample in read}
    assert {sample["prompt"] for sample in samples("generate", 8)[::2]} <= prompts and len(read) >= 4
    assert read.source.notes[0] == f"{tar} is truncated or corrupt"
    assert "00001.tar is truncated" in caplog.text
    tar.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"00001.tar is no tar file that can be read"):
        open_source("generate", {"webdataset": {"path": str(folder)}}, 5)


@pytest.mark.parametrize("header", [b"\0" * 512, b"\xa5" * 512], ids=["zeros", "garbled"])
def test_tars_with_a_broken_header_are_told(tmp_path, caplog, header):
    """`tarfile` by itself takes such a header for the end of the tar."""
    pairs = [(f"{number}.{ending}", b"x" * 600) for number in range(10) for ending in ("jpg", "txt")]
    tar = write_tar(tmp_path / "a.tar", pairs)
    entry = {"webdataset": {"path": str(tar)}}
    read = open_source("generate", entry, 5)
    assert len(read) == 10 and not read.source.notes and "corrupt" not in caplog.text
    content = tar.read_bytes()
    at = 8 * 3 * 512  # each member is a header and two blocks
    tar.write_bytes(content[:at] + header + content[at + 512 :])
    read = open_source("generate", entry, 5)
    assert len(read) == 4 and read.source.notes == [f"{tar} is truncated or corrupt"]
    assert "a.tar is truncated or corrupt: after 8 whole members nothing more can be read" in caplog.text


def test_what_is_no_sample_of_a_tar_is_counted(tmp_path):
    """The ending begins at the first dot; a name may come once."""
    picture = picture_bytes(samples("generate", 1)[0]["image"])
    names = ("img_1.5.png", "img_1.5.txt", "a.png", "a.txt", "a.png", "a.txt", "b.png", "b.txt", "b.json", "b.json")
    tar = write_tar(tmp_path / "a.tar", [(name, picture if name.endswith("png") else b"x") for name in names])
    read = open_source("generate", {"webdataset": {"path": str(tar)}}, 5)
    strange, repeated = read.source.notes
    assert len(read) == 2
    assert strange.startswith("1 samples with none of .jpg, ") and strange.endswith(
        ", .txt after the first dot of their name are left out"
    )
    assert repeated == "2 members of a name that came before in the same tar are left out"


def test_cut_off_json_is_refused_with_its_row(tmp_path):
    file = write(tmp_path / "a.json", [{"a": 1}, {"a": 2}])
    whole = file.read_text()
    file.write_text(whole[: whole.index("2")])
    with pytest.raises(ValueError, match=r"a.json is no JSON at row 2 .* Is it whole\?"):
        open_rows(str(file))
    file.write_text('[{"a": 1}')
    with pytest.raises(ValueError, match=r"a.json is no whole JSON: its list does not end. Was the download cut off"):
        open_rows(str(file))
    file.write_text('[{"a": 1}, 7]')
    with pytest.raises(ValueError, match=r"a.json, row 2 must be an object with fields, but is '7'"):
        open_rows(str(file))
    with pytest.raises(ValueError, match=r"`path` '.*nowhere.*' has no files \(.json"):
        open_rows(str(tmp_path / "nowhere" / "*.json"))


def test_rows_of_json_are_read_where_they_lie(tmp_path):
    rows = [{"text": text} for text in ("plain", "短い", "a ] or a } in it", "\u2028", 'quo"ted', "é" * 100)]
    spaced = "[" + " ,\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + " ]\n"
    lines = "\ufeff" + "\r\n".join(json.dumps(row) for row in rows)
    for text in (json.dumps(rows), spaced, lines):
        assert list(open_rows(str(write(tmp_path / "a.json", text)))) == rows
    both = open_rows([str(write(tmp_path / "b.jsonl", lines)), str(tmp_path / "a.json")])
    assert len(both) == 12 and both[7] == rows[1] and both.name_of(7) == f"{tmp_path / 'a.json'}, row 2"
    with pytest.raises(IndexError, match=r"`index` must be in \[0, 12\)"):
        both[12]


def test_indices_of_large_files_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "KEPT_FROM", 1)
    file = write(tmp_path / "a.json", [{"a": 1}, {"a": 2}])
    assert len(JsonRows([file])) == 2
    [kept] = (tmp_path / "home" / "wallaroo" / "indices").iterdir()
    monkeypatch.setattr(rows_module, "_index", None)
    assert list(JsonRows([file])) == [{"a": 1}, {"a": 2}]
    monkeypatch.undo()
    monkeypatch.setattr(rows_module, "HF_HOME", str(tmp_path / "home"))
    write(file, [{"a": 1}])
    assert len(JsonRows([file])) == 1
    assert kept.suffix == ".npz"


def test_two_machines_may_keep_an_index_at_once(tmp_path, monkeypatch):
    """Their processes may have the same number."""
    monkeypatch.setattr(rows_module, "KEPT_FROM", 1)
    monkeypatch.setattr(rows_module.os, "getpid", lambda: 7)
    file = write(tmp_path / "a.json", [{"a": 1}, {"a": 2}])
    save = np.savez
    found = []

    def save_while_another_does(*arguments, **arrays):
        monkeypatch.setattr(np, "savez", save)
        save(*arguments, **arrays)
        found.append(list(JsonRows([file])))

    monkeypatch.setattr(np, "savez", save_while_another_does)
    assert list(JsonRows([file])) == [{"a": 1}, {"a": 2}] == found[0]
    [kept] = (tmp_path / "home" / "wallaroo" / "indices").iterdir()
    assert len(np.load(kept)["spans"]) == 2


def test_members_of_tars_by_path(tmp_path):
    first = write_tar(tmp_path / "a.tar", [("x/1.png", b"one"), ("./x/2.png", b"two"), ("短.png", b"three")])
    second = write_tar(tmp_path / "b.tar", [("x/1.png", b"other"), ("y" * 150, b"long name")])
    tars = TarFiles([first, second])
    found = {name: tars.find(name) for name in ("x/1.png", "x/2.png", "./x/2.png", "短.png", "y" * 150)}
    assert [member.read() for member in found.values()] == [b"one", b"two", b"two", b"three", b"long name"]
    assert tars.find("x/3.png") is None and tars.find("zzz") is None


# ---------------------------------------------------------------------- within a limit


def broken_folder(folder, good, bad):
    picture = picture_bytes(samples("generate", 1)[0]["image"])
    files = {f"good-{number:03d}.jpg": picture for number in range(good)}
    return picture_folder(folder, {**files, **{f"bad-{number:03d}.jpg": b"x" for number in range(bad)}})


def test_another_sample_takes_the_place_and_all_are_counted(tmp_path, small_processor):
    entry = {**broken_folder(tmp_path / "pictures", 30, 6), "max_dropped": 0.5}
    made = [MixtureDataset({"generate": open_source("generate", entry, 1)}, {"generate": 1}, 72) for _ in range(2)]
    first = [made[0][position] for position in range(72)]
    again = [made[1][position] for position in reversed(range(72))][::-1]
    assert [(one["origin"], one.get("dropped")) for one in first] == [
        (one["origin"], one.get("dropped")) for one in again
    ]
    counted = sum(one.get("dropped", {}).get("unreadable", 0) for one in first)
    assert counted >= 12 and all("bad" not in one["prompt"] for one in first)
    batch = collator_of(small_processor, drop=True)(first)
    assert len(batch["input_ids"]) == 72
    assert dict(zip(DROP_REASONS, batch["dropped"].tolist(), strict=True))["unreadable"] == counted


def test_a_drawing_may_have_an_empty_column_of_sources(tmp_path):
    """As a table has it that holds both tasks; of an edit it is a fault."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    row = {"prompt": "x", "image": "a.png", "source_image": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    found = open_source("generate", {"jsonl": {"path": str(tmp_path / "rows.jsonl")}}, 1)[0]
    assert found["task"] == "generate" and found["image"].size == (32, 32)
    with pytest.raises(DroppedSample, match="'source_image' must be one picture, but is 'None'"):
        open_source("edit", {"jsonl": {"path": str(tmp_path / "rows.jsonl")}}, 1)[0]


def test_above_the_limit_is_one_clear_error(tmp_path, caplog):
    entry = {**broken_folder(tmp_path / "pictures", 30, 30), "name": "mine", "max_dropped": 0.2}
    mixed = MixtureDataset({"generate": open_source("generate", entry, 1)}, {"generate": 1}, 200)
    with pytest.raises(
        ValueError,
        match=r"mine: \d+ of the \d+ samples read have a fault \(\d+ unreadable\), more than `max_dropped` 0.2 allows. "
        r"The last one: .*bad-\d+.jpg.*wallaroo data check",
    ):
        for position in range(200):
            mixed[position]
    assert caplog.text.count("a sample is left out (unreadable)") == 5
    loader = DataLoader(mixed, batch_size=4, num_workers=2, collate_fn=list)
    with pytest.raises(ValueError, match=r"more than `max_dropped` 0.2 allows"):
        list(loader)


class FaultyAtRandom:
    """Of which a share is broken."""

    def __init__(self, share, seed):
        self.random, self.share = random.Random(seed), share

    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        if self.random.random() < self.share:
            raise DroppedSample("unreadable", f"Number {index}.")
        return {"task": "generate", "prompt": "x"}


def test_chance_alone_does_not_stop_a_worker():
    """Each compares after each fault: of 50 workers that read what is within the limit none stops."""

    def read_until_it_stops(share, seed):
        read = ScreenedDataset(FaultyAtRandom(share, seed), "mine", max_dropped=0.01)
        try:
            for index in range(2000):
                _drops(read, index)
        except ValueError:
            pass
        return read.read

    assert {read_until_it_stops(0.008, seed) for seed in range(50)} == {2000}
    assert max(read_until_it_stops(0.04, seed) for seed in range(5)) < 2000


def test_a_few_are_always_allowed(tmp_path):
    entry = {**broken_folder(tmp_path / "pictures", 3, 1), "max_dropped": 0}
    mixed = MixtureDataset({"generate": open_source("generate", entry, 1)}, {"generate": 1}, 8)
    assert len([mixed[position] for position in range(8)]) == 8


# ---------------------------------------------------------------------- filters and weights


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, "abcd"),
        ({"min_width": 60}, "bcd"),
        ({"max_height": 40}, "ac"),
        ({"max_ratio": 1.5}, "abd"),
        ({"min_width": 60, "max_ratio": 1.4}, "bd"),
        ({"min_text": 3}, "bcd"),
        ({"max_text": 5}, "ab"),
        ({"match": "dog|fox"}, "bc"),
        ({"exclude": "(?i)DOG"}, "acd"),
    ],
)
def test_filters(tmp_path, filters, kept):
    sizes = {"a": (40, 30), "b": (60, 60), "c": (90, 40), "d": (80, 60)}
    texts = {"a": "ox", "b": "a dog", "c": "the red fox", "d": "nothing at all"}
    for name, size in sizes.items():
        write(tmp_path / f"{name}.png", encoded("RGB", size))
        write(tmp_path / f"{name}.txt", texts[name])
    read = open_source("generate", {"folder": {"path": str(tmp_path)}, "filters": filters}, 5)
    found = ""
    for index, name in enumerate("abcd"):
        try:
            assert read[index]["prompt"] == texts[name]
            found += name
        except DroppedSample as error:
            assert error.reason == "filtered"
    assert found == kept and not read.faults


def test_filters_of_columns(tmp_path):
    columns = [{"score": 3.5, "kind": "add"}, {"score": 4.5, "kind": "add"}, {"score": 5, "kind": "remove"}]
    columns.append({"score": None, "kind": None})
    talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "."}]
    path = str(write(tmp_path / "a.json", [{**row, "conversations": talk} for row in columns]))

    def kept(where):
        read = open_source("understand", {"llava": {"path": path}, "filters": {"where": where}}, 5)
        found = [index for index in range(4) if not _drops(read, index)]
        assert not read.faults, "nothing in a column is no fault where the column is a filter's"
        return found

    assert kept({"score": {"min": 4}}) == [1, 2]
    assert kept({"score": {"min": 4, "max": 4.9}}) == [1]
    assert kept({"kind": "add", "score": 4.5}) == [1]
    assert kept({"kind": ["remove", "move"]}) == [2]
    assert kept({"kind": {"match": "^re"}}) == [2]
    with pytest.raises(ValueError, match=r"a.json, row 1 has no field 'scor'; .* Did you mean 'score'"):
        kept({"scor": 1})


def _drops(source, index):
    try:
        source[index]
    except DroppedSample:
        return True
    return False


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"filters": {"min_side": 3}}, "`filters` has the unknown key 'min_side'. Did you mean 'min_"),
        ({"filters": {"match": "("}}, "`match` must be a regular expression, but '\\(' is none"),
        ({"filters": {"where": {"a": {"least": 3}}}}, r"`where` of 'a' may have min, max, match, but has \['least'\]"),
        ({"filters": {"where": {"a": 3}}}, "`filters` of 'folder': `where` needs columns, which this layout does not"),
        ({"filters": 3}, "`filters` must be a mapping, but is 3"),
        ({"max_dropped": 2}, r"`max_dropped` must be a share in \[0, 1\], but got 2"),
        ({"weight": 0}, "`weight` of 'folder' must be a number above 0, but is 0"),
        ({"wieght": 3}, "`data` of 'generate' must be one of .* Did you mean 'weight'"),
    ],
)
def test_entries_that_are_wrong_are_refused(tmp_path, entry, complaint):
    write(tmp_path / "a.png", encoded("RGB"))
    write(tmp_path / "a.txt", "x")
    with pytest.raises(ValueError, match=complaint):
        open_source("generate", [{"folder": {"path": str(tmp_path)}, **entry}], 5)


def test_too_narrow_filters_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(mixture_module, "MOST_UNWANTED", 100)
    entry = {**broken_folder(tmp_path / "pictures", 3, 0), "filters": {"min_width": 5000}}
    mixed = MixtureDataset({"generate": open_source("generate", entry, 1)}, {"generate": 1}, 8)
    with pytest.raises(ValueError, match=r"100 samples in a row were left out \(\{'filtered': 100\}\).*too narrow\?"):
        mixed[0]
    with pytest.raises(ValueError, match="'shapes' takes no 'filters'"):
        open_source("generate", {"shapes": {}, "filters": {}}, 5)


def test_weights_become_whole_numbers_of_a_turn():
    assert whole_ratio({"a": 3, "b": 1}) == {"a": 3, "b": 1}
    assert whole_ratio({"a": 0.75, "b": 0.25}) == {"a": 3, "b": 1}
    assert whole_ratio({"a": 200, "b": 100}) == {"a": 2, "b": 1}
    assert whole_ratio({"a": 1_265_340, "b": 60_000, "c": 1}) == {"a": 955, "b": 45, "c": 1}


def test_a_list_of_sources_is_taken_by_weight(tmp_path):
    one = broken_folder(tmp_path / "one", 5, 0)
    entry = [{**one, "weight": 3, "name": "one"}, {"shapes": {"seed": 4}}]
    mixed = MixtureDataset({"generate": open_source("generate", entry, 400)}, {"generate": 1}, 400)
    found = [mixed[position]["origin"] for position in range(400)]
    assert Counter(origin.split("[")[0] for origin in found) == {"generate/one": 300, "generate/shapes": 100}
    turns = [origin for origin in found if "one" in origin]
    assert all(len(set(turns[start : start + 5])) == 5 for start in range(0, 300, 5)), "each is seen before one again"
    assert len({mixed[position]["seed"] for position in range(400)}) == 400
    with pytest.raises(ValueError, match="two sources of the name 'folder': give each a `name`"):
        open_source("generate", [one, one], 5)
    with pytest.raises(ValueError, match="`data` of 'generate' is an empty list"):
        open_source("generate", [], 5)


# ---------------------------------------------------------------------- processes, and training


def test_processes_and_workers_share_the_samples_of_tars(tmp_path):
    entry = [{"webdataset": {"path": str(write_blip3o(tmp_path / "tars", 12, 3))}}]
    mixed = MixtureDataset({"generate": open_source("generate", entry, 12)}, {"generate": 1}, 12)
    expected = [mixed[position]["origin"] for position in range(12)]
    assert len(set(expected)) == 12
    found = []
    for rank in range(2):
        batches = BatchSamplerShard(BatchSampler(SequentialSampler(mixed), 2, False), 2, rank)
        loader = DataLoader(mixed, batch_sampler=batches, num_workers=2, collate_fn=list)
        found.append([[sample["origin"] for sample in batch] for batch in loader])
    together = [origin for pair in zip(*found, strict=True) for batch in pair for origin in batch]
    assert together == expected


def write_mixture(folder):
    """A mixture of every layout, some of it broken, as a YAML file."""
    opengpt = write_opengpt4o_image(folder / "opengpt")
    write(opengpt / "gen" / "1.png", b"x")
    data = {
        "generate": [
            {"imagenet": {"path": str(write_imagenet_parquet(folder / "imagenet"))}, "weight": 2},
            {"webdataset": {"path": str(write_blip3o(folder / "blip3o"))}, "filters": {"min_width": 60}},
            {"sharegpt4o_image": {"path": str(write_sharegpt4o_image(folder / "sharegpt"))}},
            {"opengpt4o_image": {"path": str(opengpt)}, "max_dropped": 0.5},
        ],
        "edit": [
            {"sharegpt4o_image": {"path": str(folder / "sharegpt")}},
            {"gpt_image_edit": {"path": str(write_gpt_image_edit(folder / "gpt-edit"))}, "weight": 1.5},
        ],
        "understand": [
            {"llava": {"path": str(write_llava(folder / "llava")), "images": str(folder / "llava" / "images")}},
            {"commonsense_qa": {"path": str(write_commonsense_qa(folder / "csqa"))}},
        ],
    }
    return write(folder / "mixture.yaml", yaml.safe_dump({"data": data}))


def test_a_mixture_of_all_layouts_trains_and_goes_on_where_it_stopped(tmp_path, small_folder):
    write_mixture(tmp_path)
    recipe = {
        "stage": "4",
        "init": str(small_folder),
        "output": str(tmp_path / "whole"),
        "train": ["language_model", "generation_adapter", "editing_adapter"],
        "tasks": {"generate": 4, "edit": 2, "understand": 2},
        "data": "mixture.yaml",
        "steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.001,
        "bf16": False,
    }
    path = write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    whole = run_stage(StageConfig.load(path))
    config = StageConfig.load(path, [f"output={tmp_path / 'stopped'}"])
    run_stage(config)
    shutil.rmtree(tmp_path / "stopped" / "final")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    again = run_stage(config)
    weights = [torch.nn.Module.state_dict(_model(folder)) for folder in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    state = json.loads((tmp_path / "whole" / "checkpoint-4" / "trainer_state.json").read_text())
    dropped = Counter()
    for entry in state["log_history"]:
        dropped.update({name: value for name, value in entry.items() if name.startswith("dropped/")})
    assert set(dropped) <= {f"dropped/{reason}" for reason in DROP_REASONS}


def _model(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder)


def test_mixtures_of_a_recipe_must_have_data(tmp_path, small_folder):
    write(tmp_path / "mixture.yaml", "generate: {}")
    recipe = {"stage": "4", "init": str(small_folder), "output": "o", "train": ["language_model"], "steps": 1}
    recipe |= {"tasks": {"generate": 1}, "learning_rate": 0.1, "data": "mixture.yaml"}
    path = write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match=r"mixture.yaml must have `data`, a mapping from tasks to sources"):
        StageConfig.load(path)
    write(tmp_path / "mixture.yaml", "data: {generated: {}}")
    with pytest.raises(ValueError, match=r"must be of 'understand', 'generate', 'edit'.* Did you mean 'generate'"):
        StageConfig.load(path)


def test_codes_of_published_sets_are_made_once(tmp_path, small_model, small_processor):
    """Of a list of prompts one is kept; what is broken, the first sample too, is left out with its reason."""
    from transformers_wallaroo.training.encoding import encode_dataset

    imagenet = open_source("generate", {"imagenet": {"path": str(write_imagenet_parquet(tmp_path / "imagenet"))}}, 5)
    options = {"show_progress": False, "rank": 0, "world_size": 1}
    encoding = encode_dataset(imagenet, small_model.model.vq_model, small_processor, tmp_path / "a", **options)
    assert (encoding["samples"], encoding["dropped"]) == (6, {})
    broken = open_source("generate", broken_folder(tmp_path / "pictures", 3, 2), 5)
    encoding = encode_dataset(broken, small_model.model.vq_model, small_processor, tmp_path / "b", **options)
    assert (encoding["samples"], encoding["dropped"]) == (3, {"unreadable": 2})
