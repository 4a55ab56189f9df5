# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The Ray Serve deployment: two replicas on this machine answer OpenAI's client."""

import base64
import io
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image

ray = pytest.importorskip("ray", reason="Ray is larger than all else that the tests install: pip install 'ray[serve]'")
openai = pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from ray import serve

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def deploy():
    sys.path.insert(0, str(ROOT / "examples" / "serving"))
    try:
        import ray_serve
    finally:
        sys.path.remove(str(ROOT / "examples" / "serving"))
    return ray_serve.deploy


def test_unknown_arguments(deploy):
    with pytest.raises(ValueError, match=r"The arguments may be checkpoint, .* but got replica"):
        deploy({"replica": 2})


def test_replicas_answer(deploy, monkeypatch):
    monkeypatch.setenv("WALLAROO_API_KEY", "a-key")
    # On a busy machine Ray's workers, which are nice to others, do not import in the 5 seconds of a check.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "300")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"env_vars": {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}}
    # Two replicas take half a core each, whatever this machine has.
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deploy({"replicas": "2", "cpus": "0.5"}), name="wallaroo", route_prefix="/")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="a-key", max_retries=0, timeout=300)
        assert [model.id for model in client.models.list()] == ["wallaroo-tiny"]
        assert len(serve.status().applications["wallaroo"].deployments["wallaroo"].replica_states) == 1
        assert serve.status().applications["wallaroo"].deployments["wallaroo"].replica_states["RUNNING"] == 2
        drawn = client.images.generate(prompt="a red circle", size="64x32", extra_body={"seed": 3})
        assert Image.open(io.BytesIO(base64.b64decode(drawn.data[0].b64_json))).size == (64, 32)
        messages = [{"role": "user", "content": "hello"}]
        stream = client.chat.completions.create(model="wallaroo-tiny", messages=messages, max_tokens=2, stream=True)
        assert list(stream)[-1].choices[0].finish_reason == "length"
        with pytest.raises(openai.AuthenticationError, match="The API key is missing or wrong"):
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="other", max_retries=0).models.list()
        with pytest.raises(openai.BadRequestError, match="must be a positive multiple of 16 pixels"):
            client.images.generate(prompt="a red circle", size="33x64")
    finally:
        serve.shutdown()
        ray.shutdown()
