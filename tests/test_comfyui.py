# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The ComfyUI nodes, against a server that takes and gives what OpenAI's image endpoints do."""

import base64
import importlib.util
import json
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
FILE = ROOT / "examples" / "comfyui" / "wallaroo_nodes.py"
specification = importlib.util.spec_from_file_location("wallaroo_nodes", FILE)
nodes = importlib.util.module_from_spec(specification)
specification.loader.exec_module(nodes)


class Server(BaseHTTPRequestHandler):
    """Answers each request with one picture a wish, as dark as its number, and keeps what it was asked."""

    asked: list

    def log_message(self, *_):
        """Nothing."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        if kind == "application/json":
            fields = json.loads(body)
        else:
            message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
            parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
            fields = {name: part.get_payload(decode=True) for name, part in parts.items()}
        self.asked.append((self.path, self.headers["Authorization"], fields))
        status, answer = 200, {"data": []}
        if fields["prompt"] == "too long":
            status, answer = 400, {"error": {"message": "The prompt is too long."}}
        for number in range(fields.get("n", 1) if kind == "application/json" else 1):
            picture = torch.full((2, 3, 3), number / 10)
            answer.setdefault("data", []).append({"b64_json": base64.b64encode(nodes.png_of(picture)).decode()})
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "asked", [], raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def test_drawing_gives_pictures_as_comfyui_has_them(server):
    (pictures,) = nodes.WallarooDraw().run("a fox", 7, 2.5, "64x32", n=2, server=server, api_key="key")
    assert pictures.shape == (2, 2, 3, 3) and pictures.dtype == torch.float32
    assert torch.allclose(pictures.mean((1, 2, 3)), torch.tensor([0, 0.1]), atol=1 / 255)
    [(path, key, fields)] = Server.asked
    assert (path, key) == ("/v1/images/generations", "Bearer key")
    assert (fields["prompt"], fields["seed"], fields["guidance_scale"], fields["size"]) == ("a fox", 7, 2.5, "64x32")


def test_each_picture_is_edited(server):
    sources = torch.rand(2, 4, 5, 3)
    (pictures,) = nodes.WallarooEdit().run(sources, "make it night", 3, 1.5, server=server)
    assert pictures.shape == (2, 2, 3, 3)
    for (path, key, fields), source in zip(Server.asked, sources, strict=True):
        assert path == "/v1/images/edits" and key is None
        assert (fields["prompt"], fields["seed"], fields["guidance_scale"]) == (b"make it night", b"3", b"1.5")
        assert torch.allclose(nodes.pixels_of(fields["image"]), source, atol=1 / 255)


def test_what_goes_wrong_is_a_sentence(server):
    with pytest.raises(ValueError, match=r"refused the request \(400\): The prompt is too long\."):
        nodes.WallarooDraw().run("too long", 0, 1.0, server=server)
    with pytest.raises(ValueError, match=r"no answer from http://127\.0\.0\.1:9 .* Is `wallaroo serve` running"):
        nodes.WallarooDraw().run("a fox", 0, 1.0, server="http://127.0.0.1:9")
    assert nodes.said_in(b"<html>") == "<html>"


def test_inputs_are_those_that_run_takes():
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        inputs = node.INPUT_TYPES()
        taken = node.run.__code__.co_varnames[1 : node.run.__code__.co_argcount]
        assert set(inputs["required"]) | set(inputs["optional"]) == set(taken), name
        assert name in nodes.NODE_DISPLAY_NAME_MAPPINGS and node.RETURN_TYPES == ("IMAGE",)
    text = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    assert all(label in text for label in nodes.NODE_DISPLAY_NAME_MAPPINGS.values())
