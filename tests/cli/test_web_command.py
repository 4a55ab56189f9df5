# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo app`: its options, and what it says where it cannot start."""

import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from transformers_wallaroo import apps, cli

runner = CliRunner()


@pytest.fixture
def started(monkeypatch):
    """What a page would have been started with, on an engine that nobody needs."""
    calls = {}

    class Page:
        def __init__(self, engine):
            calls["engine"] = engine
            self.blocks = types.SimpleNamespace(block_thread=lambda: calls.update(waited=True))

        def launch(self, **options):
            calls["options"] = options
            return "http://somewhere/"

    monkeypatch.setitem(sys.modules, "transformers_wallaroo.apps.web", types.SimpleNamespace(Page=Page))
    monkeypatch.setattr(apps.Engine, "load", classmethod(lambda _, checkpoint, device: (checkpoint, device)))
    monkeypatch.delenv("WALLAROO_CHECKPOINT", raising=False)
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    return calls


def test_it_starts_on_this_machine_alone_and_says_where(started):
    result = runner.invoke(cli.app, ["app"])
    assert result.exit_code == 0, result.stderr
    assert started["engine"] == (None, None) and started["waited"]
    assert started["options"] == {"host": "127.0.0.1", "port": None, "share": False}
    assert "The page is at http://somewhere/" in result.stdout and "the embedded one, wallaroo-tiny" in result.stderr


def test_options_are_passed_on(started):
    options = ["--host", "0.0.0.0", "--port", "8000", "--share", "--device", "cpu", "--checkpoint", "mine"]
    assert runner.invoke(cli.app, ["app", *options]).exit_code == 0
    assert started["engine"] == ("mine", "cpu")
    assert started["options"] == {"host": "0.0.0.0", "port": 8000, "share": True}
    runner.invoke(cli.app, ["app"], env={"WALLAROO_CHECKPOINT": "theirs"})
    assert started["engine"] == ("theirs", None)


def test_help_has_examples():
    result = runner.invoke(cli.app, ["app", "--help"])
    assert result.exit_code == 0
    for words in ("wallaroo app --checkpoint", "--port", "--share", "--host", "--device", "[app]"):
        assert words in result.stdout
    assert "wallaroo app " in runner.invoke(cli.app, ["--help"]).stdout


def test_a_checkpoint_that_is_not_there_is_named():
    pytest.importorskip("gradio", reason="gradio wants an older Pillow than `make test` pins: `make test-e2e`")
    result = runner.invoke(cli.app, ["app", "--checkpoint", "/nowhere"])
    assert result.exit_code == 2 and "there is no folder /nowhere" in result.stderr


def test_a_missing_gradio_is_named():
    script = "import sys; sys.modules['gradio'] = None; from transformers_wallaroo.cli import main; main()"
    command = [sys.executable, "-c", script, "app"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "wallaroo: The web page needs gradio: pip install 'transformers-wallaroo[app]'."
    )
