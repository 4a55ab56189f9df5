"""The example that converts and asks, on the fixture and on a small scale."""

import json

import pytest
from PIL import Image

import convert_and_ask


def test_example_writes_pictures_and_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        convert_and_ask, "DRAWINGS", (("a fox", {"height": 32, "width": 48}), ("一只猫", {"height": 48, "width": 32}))
    )
    monkeypatch.setattr(convert_and_ask, "EDITS", ())
    monkeypatch.setattr("sys.argv", ["convert_and_ask.py", "--output", str(tmp_path / "out")])
    convert_and_ask.main()
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [entry["task"] for entry in report] == ["understand", "understand", "generate", "generate"]
    assert all(entry["answer"] for entry in report[:2])
    for entry in report[2:]:
        height, width = map(int, entry["size"].split("x"))
        assert Image.open(tmp_path / "out" / entry["file"]).size == (width, height)
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width >= 900
    assert "RANDOM" in capsys.readouterr().out


def test_example_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["convert_and_ask.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        convert_and_ask.main()
    text = capsys.readouterr().out
    for option in ("--output", "--checkpoint", "--seed"):
        assert option in text
