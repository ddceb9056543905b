"""The requests and responses of the admin address, as HTTP/1.1."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = "text/plain; charset=utf-8"
# A request, with its headers and a body, which nothing reads.
MAX_REQUEST_BYTES = 64 << 10


class InvalidRequest(Exception):
    """The bytes are not a request that can be read. The message is for the client."""


class Request(NamedTuple):
    """A request.

    Attributes:
        method: The method, such as `GET`.
        path: The path as it was sent, with its percent signs.
        query: The text after the question mark.
        accept: The header `accept`, or nothing.
    """

    method: str
    path: str
    query: str = ""
    accept: str = ""


class Response(NamedTuple):
    """A response. `headers` are those besides the usual ones."""

    body: bytes
    status: int = 200
    content_type: str = TEXT
    headers: Mapping[str, str] = {}

    def encode(self, now: float, *, has_body: bool, closes: bool) -> bytes:
        """Return the response as bytes.

        Args:
            now: The seconds since the epoch.
            has_body: False for the response to HEAD.
            closes: Whether the connection ends with it.
        """
        headers = {
            "server": "jobgateway",
            "date": formatdate(now, usegmt=True),
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            **self.headers,
            **({"connection": "close"} if closes else {}),
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + self.body if has_body else head


class RequestParser:
    """Parses the requests of one connection. Call `begin` after each of them.

    Attributes:
        keeps_alive: Whether the client may send another request on this connection. Valid once a request is complete.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect another request."""
        self.keeps_alive = False
        self._received = 0
        # In parts, because a client may send a byte at a time.
        self._target: list[bytes] = []
        self._accept: list[bytes] = []
        self._request: Request | None = None

    def feed(self, data: bytes) -> Request | None:
        """Parse the next bytes, and return the request once it is complete.

        Raises:
            InvalidRequest: They are no request, or too many.
        """
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            raise InvalidRequest(f"the request has over {MAX_REQUEST_BYTES} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Clients can do without: curl offers HTTP/2 in this way.
            self.keeps_alive = False
        except httptools.HttpParserError:
            if self._request is None:
                raise InvalidRequest("not an HTTP/1.1 request") from None
            self.keeps_alive = False
        return self._request

    def close(self) -> None:
        """Release the parser, which holds this object."""
        del self._parser

    # Called by the parser

    def on_message_begin(self) -> None:
        """Reject a request that the client sent before it had the response to another."""
        self.keeps_alive = False

    def on_url(self, part: bytes) -> None:
        """Add a part of the target."""
        if self._request is None:
            self._target.append(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header that is read."""
        if self._request is None and name.lower() == b"accept":
            self._accept.append(value)

    def on_message_complete(self) -> None:
        """Keep the request, but not one that follows it already."""
        if self._request is None:
            path, _, query = _without_host(b"".join(self._target).decode("latin-1")).partition("?")
            method = self._parser.get_method().decode("latin-1")
            self._request = Request(method, path, query, b",".join(self._accept).decode("latin-1"))
            self.keeps_alive = self._parser.get_http_version() == "1.1" and self._parser.should_keep_alive()


def _without_host(target: str) -> str:
    """Return the path and query of a target, which has a scheme and a host if it was sent to a proxy."""
    _, has_host, rest = target.partition("://")
    return target if target.startswith("/") or not has_host else "/" + rest.partition("/")[2]
