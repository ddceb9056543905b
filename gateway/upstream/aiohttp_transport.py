"""An httpx transport on an aiohttp session: the only place that builds requests and errors of aiohttp.

The package httpx-aiohttp does the same for all users of httpx. It is slower, because it reads each header several
times, and its exceptions do not say whether anything was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import httpx

from gateway.errors import (
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.aiohttp_pool import Connector
from gateway.upstream.aiohttp_protocol import MAX_HEADER_BYTES, MAX_HEADER_LINES, InvalidResponse, UnsolicitedResponse
from gateway.upstream.aiohttp_request import Request
from gateway.upstream.resolver import Resolver

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

# The response headers that the gateway uses.
READ_HEADERS = frozenset({b"content-encoding", b"content-length", b"content-type", b"location", b"retry-after"})
# How long a looked-up address is used for new connections, in seconds.
DNS_SECONDS = 10
# Exceptions of an exchange. ValueError covers responses that aiohttp's checks miss.
LIBRARY_ERRORS = (TimeoutError, aiohttp.ClientError, OSError, ValueError)
# These prove that nothing was sent: they are raised before a connection, or a tunnel through the proxy, exists.
NOT_SENT_ERRORS = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    UnsolicitedResponse,
)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests on the session of `make_session`, which is called on first use, within the event loop.

    Responses have the headers of `READ_HEADERS` only. Bodies are not decoded, and redirects are not followed. Raises
    `LIBRARY_ERRORS`, also while a body is read. `timeout` applies to each request; `request.extensions` is ignored.
    """

    def __init__(self, make_session: Callable[[], aiohttp.ClientSession], timeout: aiohttp.ClientTimeout) -> None:
        self._make_session = make_session
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return when the headers of the response have arrived (overrides httpx)."""
        if self._session is None:
            self._session = self._make_session()
        response = await self._session.request(
            request.method,
            str(request.url),
            headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
            data=_data(request.stream),
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._timeout,
        )
        # A response may have thousands of headers, and httpx reads each several times.
        headers = [each for each in response.raw_headers if each[0].lower() in READ_HEADERS]
        return httpx.Response(response.status, headers=headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


def pooled_transport(
    *,
    connect_seconds: float,
    read_seconds: float,
    idle_seconds: float,
    max_connections: int,
    tls: ssl.SSLContext,
    proxy: str | None,
) -> AiohttpTransport:
    """Return a transport with its own connection pool; see `Transport` for the arguments."""

    def make_session() -> aiohttp.ClientSession:
        connector = Connector(
            max_connections=max_connections,
            keepalive_timeout=idle_seconds,
            ssl=tls,
            ttl_dns_cache=DNS_SECONDS,
            resolver=Resolver(connect_seconds),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            request_class=Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADER_LINES,
        )
        # aiohttp would repeat a GET or DELETE, perhaps on the next stale connection. `Transport` decides about repeats.
        session._retry_connection = False  # noqa: SLF001 - aiohttp has no public switch, its test client does the same
        return session

    return AiohttpTransport(
        make_session,
        aiohttp.ClientTimeout(connect=connect_seconds, sock_connect=connect_seconds, sock_read=read_seconds),
    )


def to_upstream_error(error: Exception) -> UpstreamError:
    """Return the error of the gateway for one of `LIBRARY_ERRORS`."""
    if isinstance(error, NOT_SENT_ERRORS):
        return UpstreamUnreachable("no connection to the upstream could be made")
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not respond in time")
    if isinstance(error, InvalidResponse):
        return UpstreamMalformed(str(error))
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return UpstreamMalformed("the upstream's response is not valid HTTP")
    return UpstreamConnectionLost("the connection to the upstream was lost")


def _data(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> object:
    # A complete body is sent with the headers in one piece.
    return (b"".join(stream) or None) if isinstance(stream, httpx.ByteStream) else stream


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._response.content.iter_any())

    async def aclose(self) -> None:
        self._response.release()
        await self._response.wait_for_close()
