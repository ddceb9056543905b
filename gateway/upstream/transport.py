"""One HTTP exchange with the upstream; foreign exceptions become ours here, once."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import aiohttp
import httpx
import msgspec

from gateway.errors import (
    GatewayOverloaded,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamResponseTooLarge,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.aiohttp_transport import AiohttpTransport
from gateway.upstream.compression import NotDecodable, decoded
from gateway.upstream.connections import (
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
    NEW_CONNECTION_ONLY,
    Connector,
    InvalidResponse,
    Request,
    ReusedConnectionLost,
    UnsolicitedResponse,
)
from gateway.upstream.memory import BodyReservation, ReservationExceeded
from gateway.upstream.resolver import Resolver
from gateway.upstream.shortage import ShortageLog, shortage_in

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from gateway.clock import PauseTimeout
    from gateway.limits.fair_budget import FairBudget

MAX_ERROR_BODY_BYTES = 1 << 20
# How long what a refusal says is waited for.
REFUSAL_SECONDS = 5.0
# aiohttp warns of a larger body in one piece, for writing it would hold the event loop.
BODY_PIECE_BYTES = 1 << 18
# More digits are no length but nulls, and int() refuses some thousand of them.
MAX_LENGTH_DIGITS = 19
# Of more jobs than there may be watches by default; each takes about 1 KB.
KNOWN_URLS = 32_768
NO_BODY = httpx.ByteStream(b"")
# How long an address that a name has led to is taken for new connections, in seconds.
DNS_SECONDS = 10
# What an exchange may raise that is not ours; a ValueError comes of an answer that is strange beyond aiohttp's checks.
LIBRARY_ERRORS = (TimeoutError, aiohttp.ClientError, OSError, ValueError)
# These prove that nothing was sent: they are raised before there is a connection to write to, or a tunnel through the
# proxy.
NOT_SENT_ERRORS = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    UnsolicitedResponse,
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long parts of an exchange may take, in seconds.

    `connect`: to get a connection. `read`: between two pieces of an answer, and before the first. `total`: for
    the whole exchange.
    """

    connect: float
    read: float
    total: float


class HttpResponse(msgspec.Struct, frozen=True):
    """An HTTP answer, read to its end; of one that is no success at most the first MiB.

    `reservation` is the memory of a large body, to be released when nobody holds it any more. `location` is where a
    success says that it made something.
    """

    status: int
    body: bytes
    retry_after: str | None = None
    reservation: BodyReservation | None = None
    location: str | None = None


class RequestObserver(Protocol):
    """Is told of each exchange that was not given up; must be quick, and must not raise."""

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """An exchange has ended after `seconds`: with an answer of `status`, `size` bytes of it read, or with None."""


class Transport:
    """A connection pool to one upstream, through the http `proxy` where there is one.

    No cookie jar, no redirects, no proxy from the environment: each would let one caller's request change
    another's. `idle_seconds` is how long an unused connection is kept, `max_connections` how many there may be: who
    finds none waits, and no time limit runs. Bodies over 1 MiB reserve their size in `budget` before they are read.
    `tls` says whom an https upstream has to be.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        idle_seconds: float,
        max_connections: int,
        max_response_bytes: int,
        budget: FairBudget,
        tls: ssl.SSLContext,
        proxy: str | None = None,
        observer: RequestObserver | None = None,
    ) -> None:
        self._budget = budget
        self._proxy = proxy
        self._observer = observer
        self._timeouts = timeouts
        self._idle_seconds = idle_seconds
        self._max_response_bytes = max_response_bytes
        # Not the pool's own limit: waiting for it counts as connecting, and our own queue would look like an outage.
        self._slots = asyncio.Semaphore(max_connections)
        self._max_connections = max_connections
        self._shortages = ShortageLog(time.monotonic)
        self._ssl = tls
        timeout = aiohttp.ClientTimeout(
            connect=timeouts.connect, sock_connect=timeouts.connect, sock_read=timeouts.read
        )
        self._transport = AiohttpTransport(self._session, timeout)

    def _session(self) -> aiohttp.ClientSession:
        connector = Connector(
            max_connections=self._max_connections,
            keepalive_timeout=self._idle_seconds,
            ssl=self._ssl,
            ttl_dns_cache=DNS_SECONDS,
            resolver=Resolver(self._timeouts.connect),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            request_class=Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADER_LINES,
        )
        # aiohttp sends a GET or DELETE again by itself, perhaps on the next stale connection. `_within_time` knows when
        # that is right.
        session._retry_connection = False  # noqa: SLF001 - aiohttp has no public switch, its test client does the same
        return session

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        owner: bytes = b"",
        pause: PauseTimeout = nullcontext,
    ) -> HttpResponse:
        """Makes one request and reads its answer to the end; the memory of a large one is `owner`'s.

        `pause`: see `BodyReservation`.

        Raises `UpstreamUnreachable` where certainly nothing was sent; `UpstreamTimeout`, `UpstreamConnectionLost`
        and `UpstreamMalformed` where the upstream may have read the request; `UpstreamResponseTooLarge`;
        `GatewayOverloaded` if this process ran out of memory, files or threads.
        """
        request = _request(method, url, headers, body)
        reservation = BodyReservation(self._budget, owner, self._max_response_bytes, pause, repeatable=body is None)
        try:
            async with self._slots:
                try:
                    return await self._within_time(request, reservation)
                except ReservationExceeded:
                    await reservation.start_over()
                    return await self._within_time(request, reservation)
        except (*LIBRARY_ERRORS, MemoryError, RuntimeError) as error:
            if (name := shortage_in(error)) is not None:
                self._shortages.write(name)
                sent = not isinstance(error, (*NOT_SENT_ERRORS, RuntimeError))
                raise GatewayOverloaded(
                    f"the gateway has too little of what it needs ({name})", may_have_been_sent=sent
                ) from error
            if not isinstance(error, LIBRARY_ERRORS):
                raise
            raise _map_exception(error) from error

    async def _within_time(self, request: httpx.Request, reservation: BodyReservation) -> HttpResponse:
        complete = False
        try:
            async with asyncio.timeout(self._timeouts.total) as limit:
                try:
                    answer = await self._exchange(request, reservation, limit)
                except ReusedConnectionLost:
                    # The upstream closed an idle connection as the request went out, or a late response came on it.
                    # Only a read is safe to repeat.
                    if request.method != "GET":
                        raise
                    answer = await self._exchange_on_new_connection(request, reservation, limit)
            complete = True
        finally:
            if not complete:
                reservation.release()
        return answer

    async def _exchange_on_new_connection(
        self, request: httpx.Request, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> HttpResponse:
        before = NEW_CONNECTION_ONLY.set(True)
        try:
            return await self._exchange(request, reservation, limit)
        finally:
            NEW_CONNECTION_ONLY.reset(before)

    async def _exchange(
        self, request: httpx.Request, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> HttpResponse:
        clock = asyncio.get_running_loop().time
        began = clock()
        status: int | None = None
        body = io.BytesIO()
        given_up = False
        try:
            response = await self._transport.handle_async_request(request)
            status = response.status_code if 200 <= response.status_code < 600 else None
            return await self._answer(response, body, reservation, limit)
        except asyncio.CancelledError:
            # A time-out of ours is told as such by who set it.
            given_up = not limit.expired()
            raise
        finally:
            size = body.tell()
            # What an error's frames still hold of it would lie there until garbage is collected.
            body.close()
            if self._observer is not None and not given_up:
                self._observer.exchanged(request.method, status, clock() - began, size)

    async def _answer(
        self, response: httpx.Response, body: io.BytesIO, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> HttpResponse:
        try:
            if not 200 <= response.status_code < 600:
                raise UpstreamMalformed(f"the upstream's answer has the status {response.status_code}")
            if response.is_success:
                await self._read(response, body, reservation, limit)
            else:
                await _read_refusal(response, body, limit)
        except LIBRARY_ERRORS as error:
            if shortage_in(error) is not None or isinstance(error, ReusedConnectionLost):
                raise
            ours = _map_exception(error)
            ours.http_status = response.status_code
            raise ours from error
        except UpstreamError as error:
            error.http_status = response.status_code
            raise
        finally:
            await response.aclose()
        reservation.shrink(body.tell())
        retry_after = None if response.is_success else response.headers.get("retry-after")
        location = response.headers.get("location") if response.is_success else None
        # Without a copy, which of a large answer would hold the event loop.
        return HttpResponse(
            response.status_code, body.getvalue(), retry_after, None if reservation.empty else reservation, location
        )

    async def _read(
        self, response: httpx.Response, body: io.BytesIO, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> None:
        # Decoded bytes are counted: a small compressed answer may hold a huge one.
        async for piece in _pieces_of(response):
            size = body.tell() + len(piece)
            if size > self._max_response_bytes:
                raise UpstreamResponseTooLarge(f"the upstream's answer is larger than {self._max_response_bytes} bytes")
            while size > reservation.size:
                await reservation.grow(_announced(response), limit)
            body.write(piece)


def _request(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> httpx.Request:
    if body is None:
        return httpx.Request(method, _parsed(url), headers=headers, stream=NO_BODY)
    headers = {**headers, "content-length": str(len(body))}
    stream = httpx.ByteStream(body) if len(body) <= BODY_PIECE_BYTES else _SlicedBody(body)
    return httpx.Request(method, _parsed(url), headers=headers, stream=stream)


# The same jobs are read again and again, and to parse an address costs as much as the rest of making a request.
@lru_cache(maxsize=KNOWN_URLS)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _announced(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return (
        int(length)
        if length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS and "content-encoding" not in response.headers
        else None
    )


async def _read_refusal(response: httpx.Response, body: io.BytesIO, limit: asyncio.Timeout) -> None:
    # What a refusal says is worth less than that it is one: neither an answer that breaks off nor one that does not end
    # may turn it into something else.
    now = asyncio.get_running_loop().time()
    until = limit.when() or now
    try:
        async with asyncio.timeout_at(min(now + REFUSAL_SECONDS, until - (until - now) / 10)):
            async for piece in _pieces_of(response):
                body.write(piece[: MAX_ERROR_BODY_BYTES - body.tell()])
                if body.tell() == MAX_ERROR_BODY_BYTES:
                    break
    except LIBRARY_ERRORS as error:
        # Then it may be a refusal of an earlier request.
        if isinstance(error, ReusedConnectionLost):
            raise


def _pieces_of(response: httpx.Response) -> AsyncIterator[bytes]:
    # Not by the response's own iterators, which count and cut once more.
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - of an asynchronous transport
    encoding = response.headers.get("content-encoding", "")
    return decoded(aiter(stream), encoding) if encoding else aiter(stream)


class _SlicedBody(httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), BODY_PIECE_BYTES):
            yield self._body[start : start + BODY_PIECE_BYTES]


def _map_exception(error: Exception) -> UpstreamError:
    if isinstance(error, NOT_SENT_ERRORS):
        return UpstreamUnreachable("no connection to the upstream could be made")
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not answer in time")
    if isinstance(error, NotDecodable | InvalidResponse):
        return UpstreamMalformed(str(error))
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return UpstreamMalformed("the upstream's answer is not HTTP that can be read")
    return UpstreamConnectionLost("the connection to the upstream was lost")
