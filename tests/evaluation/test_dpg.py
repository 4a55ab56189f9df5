# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""DPG-Bench's prompts, as a folder of texts and as a table."""

import pytest

from transformers_wallaroo.evaluation.dpg import read

from benchmark_prompts import DPG_TEXTS, write_dpg_table, write_dpg_texts


def test_folder_and_table_have_the_same_samples(tmp_path):
    texts, table = read(write_dpg_texts(tmp_path)), read(write_dpg_table(tmp_path))
    for samples in (texts, table):
        assert {sample.key: sample.prompt for sample in samples} == DPG_TEXTS
        assert all(sample.pictures == (f"{sample.key}.png",) and sample.is_grid for sample in samples)
    assert [sample.key for sample in table] == list(DPG_TEXTS)  # in the order of the table
    assert table[1].where.endswith("dpg_bench.csv, line 7")  # the first row of it ends there; each has two lines


def test_quotation_marks_around_a_prompt_go(tmp_path):
    (tmp_path / "a.txt").write_text('"A cat that says \'no\' to "yes"."\n')
    assert read(tmp_path)[0].prompt == "A cat that says 'no' to \"yes\"."


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "item_id,prompt\na,b\n",
            "line 2: there is no field 'text', which must be the prompt. It has 'item_id', 'prompt'",
        ),
        ("item_id,text\na\n", "line 2: there is no field 'text'"),
        ("item_id,text\na,\n", "line 2: the field 'text' must be the prompt, but is empty"),
        ("item_id,text\na,one\nb,two\na,three\n", r"line 4: the item 'a' has another text than before \(.*line 2\)"),
        ("item_id,text\na.b,one\n", "line 2: the field 'item_id' must have no dot, but is 'a.b'"),
        ("item_id,text\na/b,one\n", "line 2: the field 'item_id' becomes the name of a file, but 'a/b' cannot be one"),
        ("item_id,text\na,one\nA,two\n", r"line 3: the item_id 'A' is that of another prompt \(.*line 2\)"),
        ('item_id,text\na,"one\n', "this is no CSV in UTF-8"),
        ("item_id,text\na,''\n", "the prompt is empty"),
    ],
)
def test_wrong_tables(tmp_path, table, message):
    path = tmp_path / "dpg.csv"
    path.write_text(table)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match=r"holds no .txt files"):
        read(tmp_path)
    (tmp_path / "a.b.txt").write_text("one")
    with pytest.raises(ValueError, match=r"a.b.txt: its name must have no dot"):
        read(tmp_path)
    (tmp_path / "a.b.txt").rename(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt must be text in UTF-8"):
        read(tmp_path)
