# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""GenEval's prompts, and its folder as its scorer walks it."""

import json
import re

import pytest

from transformers_wallaroo.evaluation.geneval import read

from benchmark_prompts import GENEVAL_LINES, write_geneval


def test_samples(tmp_path):
    samples = read(write_geneval(tmp_path))
    assert [sample.prompt for sample in samples] == [line["prompt"] for line in GENEVAL_LINES]
    assert samples[1].pictures == tuple(f"00001/samples/0000{index}.png" for index in range(4))
    [(name, text)] = samples[1].texts.items()
    assert name == "00001/metadata.jsonl" and json.loads(text) == GENEVAL_LINES[1]
    assert samples[2].source is None and not samples[2].is_grid


def test_lines_are_kept_as_they_stand(tmp_path):
    line = '{"tag":"colors",  "include": [{"class":"cat","count":1}], "prompt":"caf\\u00e9"}'
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + line + "\n\n")
    [sample] = read(tmp_path / "metadata.jsonl")
    assert sample.texts == {"00000/metadata.jsonl": line + "\n"} and sample.prompt == "café"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "line 2: the field 'prompt' must be the prompt, but is None"),
        ({"prompt": "  "}, "line 2: the field 'prompt' must be the prompt, but is empty"),
        ({"tag": 3}, "line 2: the field 'tag' must be the kind of the prompt, such as 'counting', but is 3"),
        ({"include": {}}, "line 2: the field 'include' must be a list of things"),
        ({"include": ["cat"]}, r"line 2: include\[0\] must be an object with 'class' and 'count', but is 'cat'"),
        ({"include": [{"class": "cat"}]}, r"line 2: include\[0\]: there is no field 'count'"),
        (
            {"include": [{"class": "cat", "count": "2"}]},
            r"include\[0\]: the field 'count' must be a number, but is '2'",
        ),
        ({"include": [{"class": "cat", "count": True}]}, "the field 'count' must be a number, but is True"),
        ({"exclude": [{"count": 2}]}, r"line 2: exclude\[0\]: there is no field 'class'"),
        ({"include": [{"class": "cat", "count": 1, "color": 3}]}, "the field 'color' must be the name of a colour"),
        (
            {"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]},
            "'position' must be a relation and the place of an earlier thing in the list",
        ),
    ],
)
def test_wrong_fields_are_named_with_their_line(tmp_path, change, message):
    lines = [GENEVAL_LINES[0], {**GENEVAL_LINES[0], **change}]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read(path)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a cat\n")
    with pytest.raises(ValueError, match=r"prompts.txt, line 1 is no JSON: Expecting value at column 1"):
        read(path)
    path.write_text('{"key": "x", "instruction": "y"}\n')
    with pytest.raises(ValueError, match=r"no field 'tag'.* It has 'key', 'instruction': is this the file of another"):
        read(path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is a folder")):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"must be the file evaluation_metadata.jsonl of GenEval, .* there is no "):
        read(tmp_path / "nothing.jsonl")


def test_a_data_set_of_the_hub_has_no_fields_that_the_file_would_not_have(monkeypatch):
    """A table has each field in every row; the scorer takes a colour of `None` for one that is asked for."""
    import datasets

    from transformers_wallaroo.evaluation import geneval

    table = datasets.Dataset.from_list([{"exclude": None, **line} for line in GENEVAL_LINES[:2]])
    assert table[1]["include"][0]["color"] is None and table[0]["exclude"] is None
    monkeypatch.setattr(geneval, "data_set", lambda _name: table)
    samples = read("someone/geneval")
    assert [json.loads(*sample.texts.values()) for sample in samples] == GENEVAL_LINES[:2]
    assert samples[1].where == "someone/geneval, row 1"
