# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""docs/server.md: its Python, against a live server."""

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from transformers_wallaroo.apps.server.schema import ChatRequest, EditRequest, ImageRequest

from live import live

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")


def test_the_program_works_as_written(engine, tmp_path, monkeypatch, capsys):
    block = re.search(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[1]
    assert "http://127.0.0.1:8000" in block
    monkeypatch.chdir(tmp_path)
    scope = {}
    with live(engine) as server:
        exec(compile(block.replace("http://127.0.0.1:8000", server.url), "server.md", "exec"), scope)
    assert len(scope["drawn"].data) == 2 and capsys.readouterr().out.strip()
    assert scope["edited"].data[0].b64_json != scope["within"].data[0].b64_json and scope["within"].size == "64x32"


def test_every_field_is_named():
    for request in (ChatRequest, EditRequest, ImageRequest):
        assert [name for name in request.model_fields if f"`{name}" not in PAGE] == []
