# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The server under load, by the benchmark that has it for a minute: many clients for some seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"
CLIENTS, SECONDS, QUEUE = 64, 7, 16
# Megabytes: what the last third may lie above the one before it, and the most above the start of the load.
GROWTH, PEAK = 40, 300


def test_every_request_is_answered_or_refused_and_memory_is_flat(tmp_path):
    figures = tmp_path / "load.json"
    command = [sys.executable, BENCHMARK, f"--clients={CLIENTS}", f"--seconds={SECONDS}", f"--queue={QUEUE}"]
    command += ["--batches=8", f"--most-growth={GROWTH}", f"--folder={tmp_path}", f"--json={figures}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    found = json.loads(figures.read_text())["figures"]["8"]
    assert found["unclean"] == []
    assert found["answered"].keys() == {"draw", "edit", "ask"} and sum(found["answered"].values()) >= QUEUE
    assert found["refused"] > 0, "so many clients are more than the queue holds"
    memory = found["memory_mb"]
    assert len(memory) >= SECONDS // 2 and max(memory) - memory[0] < PEAK and found["growth_mb"] <= GROWTH
