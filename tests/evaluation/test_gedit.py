# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""GEdit-Bench's data set, and its folder."""

import datasets
import pytest

from transformers_wallaroo.evaluation.gedit import TASK_TYPES, read

from benchmark_prompts import GEDIT_FEATURES, gedit_rows, write_gedit


def test_samples(tmp_path):
    rows, samples = gedit_rows(), read(write_gedit(tmp_path), method="mine")
    assert len(samples) == len(rows) == 4 and len(TASK_TYPES) == 11
    for row, sample in zip(rows, samples, strict=True):
        path = f"mine/fullset/{row['task_type']}/{row['instruction_language']}/{row['key']}"
        assert (sample.pictures, sample.source_copy) == ((f"{path}.png",), f"{path}_SRCIMG.png")
        assert sample.prompt == row["instruction"]
        # The model sees the picture in its own size, the scorer the other one.
        assert sample.source().size == (128, 64)
        assert sample.source_shown().tobytes() == row["input_image"].tobytes()


def test_a_saved_data_set_and_one_split_of_several(tmp_path):
    data = datasets.Dataset.from_list(gedit_rows(), features=datasets.Features(GEDIT_FEATURES))
    data.save_to_disk(str(tmp_path / "one"))
    assert len(read(tmp_path / "one")) == 4
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ValueError, match=r"must name one split, as in .*:train'; there are train, test"):
        read(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_type": "colour"}, "row 1: the field 'task_type' must be one of background_change, .*, but is 'colour'"),
        ({"instruction_language": "zh"}, "row 1: the field 'instruction_language' must be one of en, cn, but is 'zh'"),
        ({"instruction": " "}, "row 1: the field 'instruction' must be the instruction, but is empty"),
        ({"key": None}, "row 1: there is no field 'key'"),
        ({"key": "a/b"}, "row 1: the field 'key' becomes the name of a file, but 'a/b' cannot be one"),
    ],
)
def test_wrong_rows(tmp_path, change, message):
    rows = gedit_rows()
    path = write_gedit(tmp_path, [rows[0], {**rows[1], **change}])
    with pytest.raises(ValueError, match=message):
        read(path)


def test_what_is_no_gedit(tmp_path):
    rows = gedit_rows()
    with pytest.raises(ValueError, match="row 1: the key 'color_alter/en/k0en' is that of another prompt"):
        read(write_gedit(tmp_path, [rows[0], rows[0]]))
    datasets.Dataset.from_list([{"a": 1}]).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=r"has no column 'input_image' .*\['a'\]"):
        read(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"must be the data set GEdit-Bench .* there is no "):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`method` becomes the name of a file"):
        read(write_gedit(tmp_path), method="a/b")
