# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures by URL, where the server's owner allows it: from public addresses alone.

The address is checked where the connection is made, after the name was resolved, and it is that address which is
connected to: a name that resolves otherwise the second time gains nothing. Each redirect is a new connection.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpcore

from .errors import ApiError
from .settings import ServerSettings
from .uploads import too_large

SECONDS = 20.0
REDIRECTS = 3
MOVED = (301, 302, 303, 307, 308)
# IPv6 addresses that carry an IPv4 address, which is where they lead.
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotPublic(Exception):
    """The name leads to an address that the server must not touch."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet: not to this machine, its networks, or nobody."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone."""

    def __init__(self):
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"no address of {host}") from error
        if not addresses or not all(is_public(address) for address in addresses):
            raise NotPublic(host)
        return await self._inner.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def fetch_picture(url: str, settings: ServerSettings, param: str, left: int | None = None) -> bytes:
    """The file behind a URL, within the size of an upload; an `ApiError` for whatever hinders it.

    Args:
        left: bytes that the request may still have; by default those of a whole request.
    """
    if not settings.allow_urls:
        raise ApiError(
            400,
            f"`{param}` is a URL, which this server does not fetch. Send the picture itself, as a data URL: "
            "`data:image/png;base64,...`.",
            param=param,
        )
    try:
        with anyio.fail_after(SECONDS):
            return await _follow(url, settings, param, settings.max_body if left is None else left)
    except NotPublic as error:
        # Says nothing of what is there: the server is no map of the network it stands in.
        raise ApiError(400, f"`{param}` leads to an address that is not public.", param=param) from error
    except TimeoutError as error:
        raise ApiError(400, f"`{param}` was not there after {SECONDS:g} seconds.", param=param) from error
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
        ssl.SSLError,
        ValueError,
        OSError,
    ) as error:
        raise ApiError(400, f"`{param}` cannot be fetched.", param=param) from error


async def _follow(url: str, settings: ServerSettings, param: str, left: int) -> bytes:
    async with httpcore.AsyncConnectionPool(network_backend=PublicBackend()) as pool:
        for _ in range(REDIRECTS + 1):
            if urlsplit(url).scheme not in ("http", "https"):
                raise ApiError(400, f"`{param}` leads to a URL that is neither http nor https.", param=param)
            # No compression: what is counted is what is kept.
            host = urlsplit(url).netloc.rpartition("@")[2]
            headers = [("Host", host), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
            async with pool.stream("GET", url, headers=headers) as response:
                told = {name.lower(): value for name, value in response.headers}
                if response.status in MOVED:
                    url = urljoin(url, told.get(b"location", b"").decode("ascii", "replace"))
                    continue
                if response.status != 200:
                    raise ApiError(400, f"`{param}` gave the status {response.status}.", param=param)
                length = told.get(b"content-length", b"")
                _check_size(int(length) if length.isdigit() else 0, settings, param, left)
                return await _body(response, settings, param, left)
        raise ApiError(400, f"`{param}` leads on more than {REDIRECTS} times.", param=param)


async def _body(response: httpcore.Response, settings: ServerSettings, param: str, left: int) -> bytes:
    data = bytearray()
    async for piece in response.aiter_stream():
        _check_size(len(data) + len(piece), settings, param, left)
        data += piece
    return bytes(data)


def _check_size(size: int, settings: ServerSettings, param: str, left: int) -> None:
    if size > settings.max_upload:
        raise too_large(settings, param)
    if size > left:
        raise ApiError(
            413,
            f"With `{param}` the request is larger than the {settings.max_body} bytes that are allowed: what is "
            "fetched counts as if it had been sent.",
            param=param,
        )


__all__ = ["PublicBackend", "fetch_picture", "is_public", "resolve"]
