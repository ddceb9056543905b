"""Encode requests, and say which connections they may use."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORTS = {"http": 80, "https": 443}
# More than the default limit of watches. Each entry takes about 1 KB.
KNOWN_URLS = 32_768


class Origin(NamedTuple):
    """A server: `host` is a name, or an address without brackets."""

    secure: bool
    host: str
    port: int


class ConnectionKey(NamedTuple):
    """Exchanges with the same key may share connections: those of one credential to one origin.

    A late response to one credential's request is then never taken for the response to another's.
    """

    origin: Origin
    authorization: str


class HttpRequest(msgspec.Struct, frozen=True):
    """A request, encoded.

    Attributes:
        method: the HTTP method.
        key: whose connection it may use.
        head: the request line and the headers, with the empty line.
        body: the body, empty if there is none.
    """

    method: str
    key: ConnectionKey
    head: bytes
    body: bytes


class _Target(NamedTuple):
    origin: Origin
    authority: str
    path: str


# The same jobs are read again and again, and parsing a URL takes as long as everything else in a request.
@lru_cache(maxsize=KNOWN_URLS)
def _target(url: str) -> _Target:
    parts = urlsplit(url)
    host = parts.hostname or ""
    default = DEFAULT_PORTS[parts.scheme]
    port = parts.port or default
    name = f"[{host}]" if ":" in host else host
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return _Target(Origin(parts.scheme == "https", host, port), name if port == default else f"{name}:{port}", path)


def origin_of(url: str) -> Origin:
    """Return the origin of an absolute URL."""
    return _target(url).origin


def encode_request(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, through_proxy: bool
) -> HttpRequest:
    """Encode a request.

    Args:
        method: the HTTP method.
        url: the absolute URL, in ASCII.
        headers: all headers except `Host` and `Content-Length`.
        body: the body, or None.
        through_proxy: whether an HTTP proxy gets the requests to a plain origin. To a secure one, it opens a tunnel.

    Raises:
        ValueError: a header has a line break or a NUL in it.
    """
    target = _target(url)
    path = url if through_proxy and not target.origin.secure else target.path
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    length = "" if body is None else f"content-length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nhost: {target.authority}\r\n{fields}{length}\r\n".encode()
    breaks = len(headers) + 3 + (body is not None)
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise ValueError("a header has a line break or a NUL in it")
    return HttpRequest(method, ConnectionKey(target.origin, headers.get("authorization", "")), head, body or b"")


def http2_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return an encoded head as HTTP/2 has it. The origin is secure, because HTTP/2 is negotiated in its handshake."""
    first, host, *lines = head[: -len(b"\r\n\r\n")].split(b"\r\n")
    method, path, _ = first.split(b" ")
    _, _, authority = host.partition(b": ")
    fields = [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]
    for line in lines:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return fields
