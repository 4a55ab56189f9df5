# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo serve`: a process that serves, ends in order, and refuses what cannot be."""

import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
openai = pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from transformers_wallaroo import cli

runner = CliRunner()


def test_help():
    text = runner.invoke(cli.app, ["serve", "--help"]).stdout
    for word in ("--checkpoint", "--api-key", "--max-batch", "--allow-urls", "--timeout", "WALLAROO_API_KEY=..."):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-batch", "0"], "`max_batch` must be more than 0, but got 0"),
        (["--max-queue", "2"], "`max_queue` must hold a whole request"),
        (["--api-key", " "], "`api_key` must be some ASCII characters"),
        (["--checkpoint", "./nowhere"], "there is no folder ./nowhere"),
    ],
)
def test_refusals(arguments, words):
    result = runner.invoke(cli.app, ["serve", *arguments])
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("wallaroo: ") and words in line


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_is_no_open_door(key, monkeypatch):
    monkeypatch.setenv("WALLAROO_API_KEY", key)
    result = runner.invoke(cli.app, ["serve"])
    [line] = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and line.startswith("wallaroo: `")
    assert ("is set, but empty" if not key else "`api_key` must be some ASCII characters") in line


def test_missing_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transformers_wallaroo.apps.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = runner.invoke(cli.app, ["serve"])
    assert result.exit_code == 2 and "pip install 'transformers-wallaroo[serve]'" in result.stderr


def test_process_serves_and_ends(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "transformers_wallaroo.cli", "serve", "--port=0", "--host=127.0.0.1"]
    with log.open("wb") as file:
        environment = {**os.environ, "WALLAROO_API_KEY": "a-key", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        while "Uvicorn running on " not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        url = log.read_text().split("Uvicorn running on ")[1].split()[0]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="a-key", max_retries=0)
        assert client.images.generate(prompt="a red circle", size="16x16").data[0].b64_json
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)  # after uvicorn, which raises the signal again or not
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert "this is the embedded one" in text and "Traceback" not in text and "a-key" not in text
