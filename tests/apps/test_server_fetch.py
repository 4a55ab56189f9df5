# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures by URL: only where it is allowed, only from public addresses, wherever a name or a redirect leads.

There is no network here: names resolve as the test says, and a server of this machine plays the internet.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from transformers_wallaroo.apps.server import fetch
from transformers_wallaroo.apps.server.errors import ApiError
from transformers_wallaroo.apps.server.settings import ServerSettings

from live import live, png

PICTURE = png(Image.effect_noise((64, 64), 80))
ALLOWED = ServerSettings(allow_urls=True, max_upload=1000)


class Site(BaseHTTPRequestHandler):
    """Has a picture, redirects, too much, and an endless chain; notes the paths that were asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        if self.path.startswith("/pieces"):
            self.send_pieces(int(self.path.partition("=")[2]))
            return
        moved = self.server.moved.get(self.path)
        body = {"/large": b"x" * 1001, "/exact": b"x" * 500, "/picture.png": PICTURE}.get(self.path, b"picture")
        self.send_response(302 if moved else 404 if self.path == "/missing" else 200)
        if moved:
            self.send_header("Location", moved)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_pieces(self, size):
        """So many bytes, one after the other, as long as somebody takes them. How many is not said before."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for _ in range(size):
                self.wfile.write(b"x")
                self.server.sent += 1
                time.sleep(0.001)
        except OSError:
            self.server.left.set()

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked, server.moved, server.sent, server.left = [], {}, 0, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def internet(site, monkeypatch):
    """`public.example` is the site, as if it were on the internet; `inside.example` is where it really is."""
    names = {
        "public.example": ["127.0.0.2"],
        "inside.example": ["127.0.0.1"],
        "mixed.example": ["127.0.0.2", "10.0.0.1"],
    }

    async def resolve(host, _):
        if host not in names:
            return [host]
        return names[host]

    public = fetch.is_public
    monkeypatch.setattr(fetch, "resolve", resolve)
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.2" or public(address))
    connect = fetch.httpcore.AnyIOBackend.connect_tcp

    async def to_site(self, host, *arguments, **options):
        assert host == "127.0.0.2"
        return await connect(self, "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(fetch.httpcore.AnyIOBackend, "connect_tcp", to_site)
    return lambda name, path: f"http://{name}:{site.server_port}{path}"


def get(url, settings=ALLOWED):
    return anyio.run(fetch.fetch_picture, url, settings, "image_url")


def refused(url, settings=ALLOWED) -> str:
    with pytest.raises(ApiError) as caught:
        get(url, settings)
    assert caught.value.param == "image_url"
    return f"{caught.value.status_code}: {caught.value.detail}"


def test_urls_are_not_fetched_unless_allowed(internet, site):
    assert refused(internet("public.example", "/a.png"), ServerSettings()) == (
        "400: `image_url` is a URL, which this server does not fetch. Send the picture itself, as a data URL: "
        "`data:image/png;base64,...`."
    )
    assert site.asked == []


def test_public_pictures_come(internet, site):
    assert get(internet("public.example", "/a.png")) == b"picture"
    assert site.asked == [("/a.png", f"public.example:{site.server_port}")]


@pytest.mark.parametrize(
    "host", ["inside.example", "mixed.example", "127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254"]
)
def test_private_addresses_are_not_touched(internet, site, host):
    assert refused(internet(host, "/a.png")) == "400: `image_url` leads to an address that is not public."
    assert site.asked == []


def test_real_names_of_this_machine_are_not_touched(site):
    """Here the name is resolved by the system."""
    for host in ("localhost", "127.1", "0.0.0.0", "2130706433", "0x7f000001"):
        assert "leads to an address that is not public" in refused(f"http://{host}:{site.server_port}/a.png")
    assert site.asked == []


def test_redirects_are_checked_again(internet, site):
    site.moved = {"/one": "/two", "/two": internet("public.example", "/three")}
    assert get(internet("public.example", "/one")) == b"picture"
    assert [path for path, _ in site.asked] == ["/one", "/two", "/three"]
    site.moved = {"/one": internet("inside.example", "/secret")}
    assert "leads to an address that is not public" in refused(internet("public.example", "/one"))
    assert "/secret" not in [path for path, _ in site.asked]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://public.example/a", "gopher://public.example/"])
def test_redirects_to_other_schemes(internet, site, target):
    site.moved = {"/one": target}
    assert refused(internet("public.example", "/one")) == (
        "400: `image_url` leads to a URL that is neither http nor https."
    )


def test_endless_redirects(internet, site):
    site.moved = {"/one": "/one"}
    assert refused(internet("public.example", "/one")) == "400: `image_url` leads on more than 3 times."


def test_size_and_status(internet):
    assert refused(internet("public.example", "/large")) == (
        "413: `image_url` is larger than the 1000 bytes that a picture may have."
    )
    assert refused(internet("public.example", "/missing")) == "400: `image_url` gave the status 404."


def test_what_is_fetched_is_no_larger_than_a_request(internet, site):
    url = internet("public.example", "/pieces=500")
    assert len(get(url, ServerSettings(allow_urls=True, max_upload=1000, max_body=500))) == 500
    settings = ServerSettings(allow_urls=True, max_upload=1000, max_body=499)
    for path in ("/pieces=500", "/exact"):
        assert refused(internet("public.example", path), settings) == (
            "413: With `image_url` the request is larger than the 499 bytes that are allowed: what is fetched counts "
            "as if it had been sent."
        )
    site.left.clear()
    assert "413: `image_url` is larger than the 1000 bytes" in refused(internet("public.example", "/pieces=100000"))
    assert site.left.wait(60) and site.sent < 100_000, "the rest is not read"


def test_conversations_count_what_they_fetch(internet, engine):
    url = internet("public.example", "/picture.png")
    parts = [{"type": "image_url", "image_url": {"url": url}}] * 2
    body = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "hello"}]}], "max_tokens": 1}
    size = len(json.dumps(body)) + 2 * len(PICTURE)
    for most, status in ((size + 100, 200), (size - 100, 413)):
        with live(engine, allow_urls=True, max_body=most) as server:
            answer = server.post("/v1/chat/completions", json=body)
            assert answer.status_code == status, answer.text
    assert "`messages.0.content.1.image_url`" in answer.json()["error"]["message"]


def test_nothing_is_fetched_for_a_client_that_left(internet, site, engine, monkeypatch):
    monkeypatch.setattr(fetch, "SECONDS", 1000)
    parts = [{"type": "image_url", "image_url": {"url": internet("public.example", "/pieces=1000000")}}]
    with live(engine, allow_urls=True) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/v1/chat/completions",
                json={"messages": [{"role": "user", "content": parts}]},
                timeout=httpx.Timeout(60, read=1),
            )
        assert site.left.wait(60) and site.sent < 1_000_000


def test_slow_sites(internet, monkeypatch):
    async def resolve(*_):
        await anyio.sleep_forever()

    monkeypatch.setattr(fetch, "resolve", resolve)
    monkeypatch.setattr(fetch, "SECONDS", 0.05)
    assert refused(internet("public.example", "/a")) == "400: `image_url` was not there after 0.05 seconds."


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://public.example:99999/", "http://nobody.invalid/a"])
def test_broken_urls(url):
    assert refused(url).startswith("400: `image_url` cannot be fetched")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("::127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::1", False),
    ],
)
def test_public_addresses(address, public):
    assert fetch.is_public(address) is public
