# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a live server does with too much: keys, sizes, the queue, timeouts, clients that leave, and its own end."""

import socket
import threading
import time

import httpx
import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
openai = pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from transformers_wallaroo.apps.server import ServerSettings, is_local

from live import SECONDS, HeldEngine, in_thread, live, until

DRAW = {"prompt": "a red circle", "size": "16x16"}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


@pytest.fixture
def held(engine):
    return HeldEngine(engine)


def message(answer) -> str:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
    return error["message"]


def test_api_key(engine):
    with live(engine, api_key="a-key") as server:
        assert [model.id for model in server.client("a-key").models.list()] == ["wallaroo-tiny"]
        for key in ("wrong", "a-ke", "a-key2"):
            with pytest.raises(openai.AuthenticationError, match="The API key is missing or wrong"):
                server.client(key).models.list()
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            answer = server.get(path)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
            assert "`Authorization: Bearer KEY`" in message(answer)
        for value in ("a-key", "Basic a-key", "Bearer", "", "Bearer ä".encode()):
            assert server.get("/v1/models", headers={"Authorization": value}).status_code == 401
        assert server.get("/v1/models", headers={"Authorization": "bearer a-key"}).status_code == 200
        assert server.get("/health").status_code == server.get("/ready").status_code == 200


def test_key_is_compared_in_constant_time(engine, monkeypatch):
    """The comparison is `hmac.compare_digest`, of two digests of one length."""
    from transformers_wallaroo.apps.server import middleware

    compared = []
    real = middleware.hmac.compare_digest
    monkeypatch.setattr(middleware.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    with live(engine, api_key="a-key") as server:
        server.get("/v1/models", headers={"Authorization": "Bearer other"})
    [(given, expected)] = compared
    assert len(given) == len(expected) == 32 and given != expected


def test_models(engine):
    with live(engine, name="org/name") as server:
        client = server.client()
        assert client.models.retrieve("org/name").id == "org/name"
        with pytest.raises(openai.NotFoundError, match="There is no model 'other' here; this server has 'org/name'"):
            client.models.retrieve("other")


def test_unknown_paths_and_methods(engine):
    with live(engine) as server:
        answer = server.get("/v1/embeddings")
        assert answer.status_code == 404 and message(answer) == "There is nothing at /v1/embeddings."
        answer = server.get("/v1/images/edits")
        assert answer.status_code == 405 and message(answer) == "/v1/images/edits takes no GET."
        until(lambda: 'wallaroo_requests_total{path="other",status="404"} 1.0' in server.get("/metrics").text)
        assert "/v1/embeddings" not in server.get("/metrics").text


def test_schema_tells_of_the_routes(engine):
    with live(engine) as server:
        paths = server.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/health"} <= set(paths)
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "prompt", "guidance_scale"} <= set(form["properties"])


def chunks(count):
    for _ in range(count):
        yield b" " * 1000


@pytest.mark.parametrize("content", [b" " * 5001, chunks(6)])
def test_bodies_are_limited_told_or_untold(engine, content):
    with live(engine, max_body=5000) as server:
        answer = server.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert message(answer) == "The request is larger than the 5000 bytes that are allowed."


def test_forms_are_limited_too(engine):
    boundary = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with live(engine, max_body=5000) as server:
        answer = server.post("/v1/images/edits", content=iter([boundary, *chunks(6)]), headers=headers)
        assert answer.status_code == 413 and "larger than the 5000 bytes" in message(answer)


def test_slow_bodies(engine):
    with live(engine, body_timeout=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            head = "POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408") and b"had not come whole after 0.2 seconds" in answer


def test_full_queue(held):
    with live(held, max_queue=2, max_images=2) as server:
        client = server.client()
        running = in_thread(client.images.generate, **DRAW)
        until(lambda: server.service.scheduler.running == 1)
        waiting = in_thread(client.images.generate, **DRAW, n=2)
        until(lambda: server.service.scheduler.waiting == 2)
        for refused in (
            lambda: client.images.generate(**DRAW),
            lambda: client.chat.completions.create(model="wallaroo-tiny", **CHAT),
        ):
            with pytest.raises(openai.RateLimitError, match="as many requests as it takes") as caught:
                refused()
            assert int(caught.value.response.headers["Retry-After"]) >= 1
            assert caught.value.body["code"] == "queue_full"
        assert server.get("/health").status_code == 200
        held.go.set()
        for (thread, results), count in ((running, 1), (waiting, 2)):
            thread.join(SECONDS)
            assert len(results[0].data) == count


def test_number_of_requests(held):
    with live(held, max_requests=1) as server:
        running = in_thread(server.client().images.generate, **DRAW)
        until(lambda: server.service.scheduler.running == 1)
        answer = server.post("/v1/images/generations", json=DRAW)
        assert answer.status_code == 429 and answer.headers["Retry-After"] == "1"
        assert server.get("/v1/models").status_code == 200
        held.go.set()
        running[0].join(SECONDS)
        assert running[1][0].data


@pytest.mark.parametrize("stream", [False, True])
def test_timeouts(held, stream):
    with live(held, timeout=0.3) as server:
        answer = server.post("/v1/images/generations", json=DRAW)
        assert answer.status_code == 504 and "was not there after 0.3 seconds" in message(answer)
        answer = server.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert answer.status_code == 504
        # What timed out is stopped: the model is free for others.
        until(lambda: held.stopped == 2 and server.service.scheduler.running == 0)


def test_clients_that_leave_are_forgotten(held):
    with live(held, batch_wait=0.0) as server:
        bodies = [
            ("/v1/images/generations", DRAW),
            ("/v1/chat/completions", CHAT),
            ("/v1/chat/completions", {**CHAT, "stream": True}),
        ]
        for path, body in bodies:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(server.url + path, json=body, timeout=0.3)
        until(lambda: held.stopped >= 1 and server.service.scheduler.running == 0 == server.service.scheduler.waiting)
        until(lambda: server.service.open_requests == 0)
        text = server.get("/metrics").text
    assert 'wallaroo_requests_total{path="/v1/images/generations",status="499"} 1.0' in text
    assert 'wallaroo_requests_total{path="/v1/chat/completions",status="499"} 2.0' in text


def test_faults_are_ours_and_told_without_details(engine, monkeypatch):
    held = HeldEngine(engine)
    held.go.set()
    monkeypatch.setattr(held, "make", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a secret path")))
    monkeypatch.setattr(held, "prepare_answer", lambda *_: (_ for _ in ()).throw(RuntimeError("a secret path")))
    with live(held) as server:
        for path, body in (("/v1/images/generations", DRAW), ("/v1/chat/completions", CHAT)):
            answer = server.post(path, json=body)
            assert answer.status_code == 500
            assert message(answer) == "The server failed at this request. Its log says why."
        until(lambda: server.service.open_requests == 0)
        assert 'path="/v1/chat/completions",status="500"} 1.0' in server.get("/metrics").text


def test_the_end_finishes_what_runs(held):
    with live(held, grace=SECONDS) as server:
        calls = [in_thread(server.client().images.generate, **DRAW) for _ in range(2)]
        until(lambda: server.service.scheduler.running + server.service.scheduler.waiting == 2)
        server.server.should_exit = True
        until(lambda: server.service.scheduler.closing)
        held.go.set()
        for thread, results in calls:
            thread.join(SECONDS)
            assert results[0].data


def test_the_end_waits_no_longer_than_it_says(held):
    with live(held, grace=0.2, max_batch=1) as server:
        calls = [
            in_thread(server.client().images.generate, **DRAW),
            in_thread(server.client().chat.completions.create, model="wallaroo-tiny", **CHAT),
        ]
        until(lambda: server.service.scheduler.running + server.service.scheduler.waiting == 2)
        started = time.monotonic()
        server.server.should_exit = True
        for thread, results in calls:
            thread.join(SECONDS)
            assert isinstance(results[0], openai.InternalServerError) and results[0].status_code == 503
            assert "The server is going down" in str(results[0])
        assert time.monotonic() - started >= 0.2


def test_not_ready_while_going_down(engine):
    with live(engine) as server:
        assert server.get("/ready").json() == {"status": "ready"}
        server.service.scheduler.refuse()
        answer = server.get("/ready")
        assert answer.status_code == 503 and "is going down" in message(answer)
        assert server.post("/v1/images/generations", json=DRAW).status_code == 503
        until(lambda: not server.service.scheduler.alive)
        assert server.get("/health").status_code == 503


def test_threads_do_not_stay(engine):
    before = threading.active_count()
    with live(engine) as server:
        assert server.post("/v1/images/generations", json=DRAW).status_code == 200
    until(lambda: threading.active_count() <= before + 2)  # anyio keeps idle workers for a while
    assert not any(thread.name == "wallaroo-scheduler" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_batch": 0}, "`max_batch` must be more than 0, but got 0"),
        ({"timeout": -1}, "`timeout` must be more than 0, but got -1"),
        ({"timeout": float("nan")}, "`timeout` must be more than 0, but got nan"),
        ({"batch_wait": -0.1}, "`batch_wait` must be at least 0 seconds"),
        ({"max_queue": 3}, "`max_queue` must hold a whole request, `max_images` of 10, but got 3"),
        ({"api_key": "  "}, "`api_key` must be some ASCII characters"),
        ({"api_key": "schlüssel"}, "`api_key` must be some ASCII characters"),
    ],
)
def test_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        ServerSettings(**settings)


def test_local_hosts():
    assert is_local("127.0.0.1") and is_local("::1") and is_local("localhost")
    assert not is_local("0.0.0.0") and not is_local("example.org")
