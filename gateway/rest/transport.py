"""One HTTP exchange with the upstream; foreign exceptions become ours here, once."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from gateway.errors import (
    UpstreamAnswerTooLarge,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamTimedOut,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_ERROR_BODY_BYTES = 1 << 20
# aiohttp warns of a larger body in one piece, for writing it would hold the event loop.
BODY_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long parts of an exchange may take, in seconds.

    `connect`: to get a connection. `silence`: between two pieces of an answer, and before the first. `whole`: for
    the whole exchange.
    """

    connect: float
    silence: float
    whole: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end; of one that is no success at most the first MiB."""

    status: int
    body: bytes
    retry_after: str | None = None


class Transport:
    """A connection pool to one upstream.

    No cookie jar, no redirects, no proxy from the environment: each would let one caller's request change
    another's. `idle_seconds` is how long an unused connection is kept, `max_connections` how many there may be.
    """

    def __init__(self, *, limits: TimeLimits, idle_seconds: float, max_connections: int, max_answer_bytes: int) -> None:
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._max_answer_bytes = max_answer_bytes
        # Called by the transport on first use, within the event loop.
        self._transport = AiohttpTransport(client=self._session, trust_env=False)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            keepalive_timeout=self._idle_seconds,
            ssl=ssl.create_default_context(),
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    async def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Makes one request and reads its answer to the end.

        Raises `UpstreamUnreachable` where certainly nothing was sent; `UpstreamTimedOut`, `UpstreamConnectionLost`
        and `UpstreamMalformed` where the upstream may have read the request; `UpstreamAnswerTooLarge`.
        """
        request = httpx.Request(
            method,
            url,
            headers=headers,
            content=None if body is None else _pieces(body),
            extensions={
                "timeout": {
                    "pool": self._limits.connect,
                    "connect": self._limits.connect,
                    "read": self._limits.silence,
                }
            },
        )
        if body is not None:
            request.headers["content-length"] = str(len(body))
        try:
            async with asyncio.timeout(self._limits.whole):
                return await self._exchange(request)
        except (TimeoutError, httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            raise _ours(error) from error

    async def _exchange(self, request: httpx.Request) -> Answer:
        response = await self._transport.handle_async_request(request)
        try:
            success = response.is_success
            limit = self._max_answer_bytes if success else MAX_ERROR_BODY_BYTES
            body = bytearray()
            # Decoded bytes are counted: a small compressed answer may hold a huge one.
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > limit:
                    if success:
                        raise UpstreamAnswerTooLarge(f"the upstream's answer is larger than {limit} bytes")
                    del body[limit:]
                    break
            return Answer(response.status_code, bytes(body), response.headers.get("retry-after"))
        finally:
            await response.aclose()


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), BODY_PIECE_BYTES):
        yield body[start : start + BODY_PIECE_BYTES]


def _ours(error: Exception) -> UpstreamError:
    causes = (error, error.__cause__)
    # No exception of httpx proves on this transport that nothing was sent (design.md, section 5); of aiohttp's, these
    # two do: both are raised before there is a connection to write to.
    if any(isinstance(each, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for each in causes):
        return UpstreamUnreachable("no connection to the upstream could be made")
    # httpx's own timeout types do not tell, for its transport maps a reset to ConnectTimeout too.
    if any(isinstance(each, TimeoutError) for each in causes):
        return UpstreamTimedOut("the upstream did not answer in time")
    if isinstance(error, aiohttp.ClientResponseError | httpx.DecodingError):
        return UpstreamMalformed("the upstream's answer is not HTTP that can be read")
    return UpstreamConnectionLost("the connection to the upstream was lost")
