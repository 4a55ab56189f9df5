# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The one reader of JSON lines: what it gives, and what it says of a wrong line."""

import pytest

from transformers_wallaroo.json_lines import read_json_lines


def test_lines_with_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    # With the mark of some editors, lines of Windows, an empty one, and an end of line within a text.
    path.write_bytes('\ufeff{"a": 1}\r\n\n {"b": "x\u2028y"} \n'.encode())
    lines = list(read_json_lines(path))
    assert [(line.number, line.fields) for line in lines] == [(1, {"a": 1}), (3, {"b": "x\u2028y"})]
    assert lines[0].where == f"{path}, line 1" and lines[1].text == '{"b": "x\u2028y"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": }', r"a\.jsonl, line 2 is no JSON: Expecting value at column 7"),
        (b"[1, 2]", r"a\.jsonl, line 1 must be a JSON object such as {\"prompt\": \"x\"}, but is \[1, 2\]"),
        (b'{"a": "\xe4"}', r"a\.jsonl must be text in UTF-8, but is not .* Save it in UTF-8"),
    ],
)
def test_wrong_lines_are_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_json_lines(tmp_path / "a.jsonl", {"prompt": "x"}))
