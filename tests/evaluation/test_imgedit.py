# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""ImgEdit-Bench's prompts and pictures."""

import json

import datasets
import pytest
from PIL import Image

from transformers_wallaroo.evaluation.imgedit import read

from benchmark_prompts import edits, write_imgedit


def test_samples(tmp_path):
    samples = read(write_imgedit(tmp_path))
    assert [(sample.key, sample.pictures) for sample in samples] == [(str(n), (f"{n}.png",)) for n in (40, 41, 42)]
    assert [sample.prompt for sample in samples] == [edit["prompt"] for edit in edits(3)]
    assert samples[0].source().size == (64, 32) and samples[0].source_copy is None


def test_pictures_in_another_folder(tmp_path):
    path = write_imgedit(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "things").rename(tmp_path / "elsewhere" / "things")
    with pytest.raises(ValueError, match=r"3 of 3 pictures to be edited are not there, such as .*key '40'.*sources"):
        read(path)
    assert read(path, sources=tmp_path / "elsewhere")[2].source().size == (64, 32)


def test_a_data_set(tmp_path):
    rows = [
        {"key": f"{n}", "prompt": edit["prompt"], "edit_type": "add", "input_image": edit["source_image"]}
        for n, edit in enumerate(edits(2))
    ]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(str(tmp_path / "imgedit.parquet"))
    samples = read(tmp_path / "imgedit.parquet")
    assert samples[1].prompt == edits(2)[1]["prompt"]
    assert samples[1].source().tobytes() == edits(2)[1]["source_image"].tobytes()
    data.remove_columns("input_image").to_parquet(str(tmp_path / "other.parquet"))
    with pytest.raises(ValueError, match="has no column 'input_image' with the pictures to be edited"):
        read(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": 3}, "key 'b': the field 'id' must be the path of the picture to be edited, but is 3"),
        ({"prompt": ""}, "key 'b': the field 'prompt' must be the instruction, but is empty"),
        ({"edit_type": ["add"]}, "key 'b': the field 'edit_type' must be the kind of the edit"),
    ],
)
def test_wrong_entries(tmp_path, entry, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    good = {"id": "a.png", "prompt": "make it red", "edit_type": "alter"}
    path = tmp_path / "basic_edit.json"
    path.write_text(json.dumps({"a": good, "b": {**good, **entry}}))
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {}', "line 1: this is no JSON"),
        ("[]", r"must hold a JSON object with an entry a prompt, but holds \[\]"),
        ('{"a": 3}', "key 'a': must be a JSON object, but is 3"),
        ('{"a": {}, "a": {}}', "the key 'a' is there more than once"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "singleturn.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(path)
    with pytest.raises(ValueError, match=r"must be the file singleturn.json .* is a folder"):
        read(tmp_path)


def test_keys_that_name_no_file(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "singleturn.json"
    path.write_text(json.dumps({"../a": {"id": "a.png", "prompt": "x", "edit_type": "add"}}))
    with pytest.raises(ValueError, match=r"the key becomes the name of a file, but '../a' cannot be one"):
        read(path)


def test_a_broken_picture_is_named_when_it_is_wanted(tmp_path):
    path = write_imgedit(tmp_path)
    (tmp_path / "things" / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1\.jpg.*no readable picture"):
        read(path)[1].source()
