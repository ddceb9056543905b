"""One exchange with the upstream: limits of time and memory, repeats, and errors of the gateway instead of a library.

The engine is behind `aiohttp_transport.py`. This module and everything above it are independent of it.
"""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import httpx
import msgspec

from gateway.errors import GatewayOverloaded, UpstreamError, UpstreamMalformed, UpstreamResponseTooLarge
from gateway.upstream.aiohttp_pool import NEW_CONNECTION_ONLY
from gateway.upstream.aiohttp_protocol import ReusedConnectionLost
from gateway.upstream.aiohttp_transport import LIBRARY_ERRORS, NOT_SENT_ERRORS, pooled_transport, to_upstream_error
from gateway.upstream.compression import NotDecodable, decoded
from gateway.upstream.memory import BodyReservation, ReservationExceeded
from gateway.upstream.shortage import ShortageLog, shortage_in

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from gateway.clock import PauseTimeout
    from gateway.limits.fair_budget import FairBudget

MAX_ERROR_BODY_BYTES = 1 << 20
# How long to wait for the body of an error response.
ERROR_BODY_SECONDS = 5.0
# Larger bodies are sent in pieces of this size, because writing them at once would block the event loop.
BODY_PIECE_BYTES = 1 << 18
# More digits cannot be a length, and int() rejects thousands of them.
MAX_LENGTH_DIGITS = 19
# More than the default limit of watches. Each entry takes about 1 KB.
KNOWN_URLS = 32_768
NO_BODY = httpx.ByteStream(b"")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of an exchange, in seconds.

    Attributes:
        connect: to get a connection.
        read: before the first bytes of the response, and between two reads.
        total: for the whole exchange.
    """

    connect: float
    read: float
    total: float


class HttpResponse(msgspec.Struct, frozen=True):
    """A complete HTTP response.

    Attributes:
        status: 200 to 599.
        body: decoded. For a status outside 200 to 299, at most the first MiB.
        retry_after: the header, of a status outside 200 to 299 only.
        reservation: the memory of a large body. Release it when the body is freed.
        location: the header, of a status from 200 to 299 only.
    """

    status: int
    body: bytes
    retry_after: str | None
    reservation: BodyReservation | None
    location: str | None


class RequestObserver(Protocol):
    """Observes exchanges that were not cancelled. Must return quickly and must not raise."""

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """Count an exchange: its `status`, or None without a valid response, and `size` bytes of body read."""


class Transport:
    """A pool of connections to one upstream.

    It has no cookie jar, follows no redirects and ignores proxies from the environment, because each of them would let
    one caller's request change another's.

    Args:
        timeouts: limits of each exchange.
        idle_seconds: how long an unused connection is kept.
        max_connections: concurrent exchanges. Further ones wait, and their time limits start when they get a slot.
        max_response_bytes: the largest decoded body.
        budget: bodies over 1 MiB reserve their memory here.
        tls: verifies the certificate of an https upstream.
        proxy: the URL of an HTTP proxy, or None.
        observer: is told of each exchange.
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
        proxy: str | None,
        observer: RequestObserver,
    ) -> None:
        self._budget = budget
        self._observer = observer
        self._total_seconds = timeouts.total
        self._max_response_bytes = max_response_bytes
        # Not the pool's own limit: waiting there counts as connecting, and would look like an outage.
        self._slots = asyncio.Semaphore(max_connections)
        self._shortages = ShortageLog(time.monotonic)
        self._transport = pooled_transport(
            connect_seconds=timeouts.connect,
            read_seconds=timeouts.read,
            idle_seconds=idle_seconds,
            max_connections=max_connections,
            tls=tls,
            proxy=proxy,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        owner: bytes,
        pause: PauseTimeout,
    ) -> HttpResponse:
        """Send a request, and return the complete response.

        Args:
            method: the HTTP method.
            url: the absolute URL.
            headers: all headers except `Host` and `Content-Length`.
            body: the body, or None.
            owner: the caller that the memory of a large response counts for.
            pause: stops the time limit of the call while the response waits for memory.

        Raises:
            UpstreamUnreachable: nothing was sent.
            UpstreamTimeout, UpstreamConnectionLost, UpstreamMalformed: the upstream may have received the request.
            UpstreamResponseTooLarge: the body is larger than `max_response_bytes`.
            GatewayOverloaded: this process ran out of memory, files or threads.
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
                    f"the gateway ran out of a resource ({name})", may_have_been_sent=sent
                ) from error
            if not isinstance(error, LIBRARY_ERRORS):
                raise
            raise _map_exception(error) from error

    async def _within_time(self, request: httpx.Request, reservation: BodyReservation) -> HttpResponse:
        complete = False
        try:
            async with asyncio.timeout(self._total_seconds) as limit:
                try:
                    response = await self._exchange(request, reservation, limit)
                except ReusedConnectionLost:
                    # The upstream closed an idle connection when the request was sent, or a late response arrived on
                    # it. Only a read is safe to repeat.
                    if request.method != "GET":
                        raise
                    response = await self._exchange_on_new_connection(request, reservation, limit)
            complete = True
        finally:
            if not complete:
                reservation.release()
        return response

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
        started = clock()
        status: int | None = None
        body = io.BytesIO()
        cancelled = False
        try:
            response = await self._transport.handle_async_request(request)
            status = response.status_code if 200 <= response.status_code < 600 else None
            return await self._read_response(response, body, reservation, limit)
        except asyncio.CancelledError:
            # If `limit` has expired, this is a timeout and not a cancellation.
            cancelled = not limit.expired()
            raise
        finally:
            size = body.tell()
            # Free the body now, because the frames of an error keep it until the next garbage collection.
            body.close()
            if not cancelled:
                self._observer.exchanged(request.method, status, clock() - started, size)

    async def _read_response(
        self, response: httpx.Response, body: io.BytesIO, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> HttpResponse:
        success = response.is_success
        try:
            if not 200 <= response.status_code < 600:
                raise UpstreamMalformed(f"the upstream responded with the status {response.status_code}")
            if success:
                await self._read(response, body, reservation, limit)
            else:
                await _read_error_body(response, body, limit)
        except LIBRARY_ERRORS as error:
            if shortage_in(error) is not None or isinstance(error, ReusedConnectionLost):
                raise
            mapped = _map_exception(error)
            mapped.http_status = response.status_code
            raise mapped from error
        except UpstreamError as error:
            error.http_status = response.status_code
            raise
        finally:
            await response.aclose()
        reservation.shrink(body.tell())
        return HttpResponse(
            response.status_code,
            # Without a copy, because copying a large body would block the event loop.
            body.getvalue(),
            retry_after=None if success else response.headers.get("retry-after"),
            reservation=None if reservation.empty else reservation,
            location=response.headers.get("location") if success else None,
        )

    async def _read(
        self, response: httpx.Response, body: io.BytesIO, reservation: BodyReservation, limit: asyncio.Timeout
    ) -> None:
        # Count decoded bytes, because a small compressed body may become a huge one.
        async for piece in _pieces_of(response):
            size = body.tell() + len(piece)
            if size > self._max_response_bytes:
                raise UpstreamResponseTooLarge(
                    f"the upstream's response is larger than {self._max_response_bytes} bytes"
                )
            while size > reservation.size:
                await reservation.grow(_announced_size(response), limit)
            body.write(piece)


def _request(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> httpx.Request:
    if body is None:
        return httpx.Request(method, _parsed(url), headers=headers, stream=NO_BODY)
    headers = {**headers, "content-length": str(len(body))}
    stream = httpx.ByteStream(body) if len(body) <= BODY_PIECE_BYTES else _SlicedBody(body)
    return httpx.Request(method, _parsed(url), headers=headers, stream=stream)


# The same jobs are read again and again, and parsing a URL takes as long as everything else in a request.
@lru_cache(maxsize=KNOWN_URLS)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def _announced_size(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return (
        int(length)
        if length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS and "content-encoding" not in response.headers
        else None
    )


async def _read_error_body(response: httpx.Response, body: io.BytesIO, limit: asyncio.Timeout) -> None:
    # The status of an error counts, even if its body is incomplete or never ends.
    now = asyncio.get_running_loop().time()
    until = limit.when() or now
    try:
        async with asyncio.timeout_at(min(now + ERROR_BODY_SECONDS, until - (until - now) / 10)):
            async for piece in _pieces_of(response):
                body.write(piece[: MAX_ERROR_BODY_BYTES - body.tell()])
                if body.tell() == MAX_ERROR_BODY_BYTES:
                    break
    except LIBRARY_ERRORS as error:
        # In this case it may be the response to an earlier request.
        if isinstance(error, ReusedConnectionLost):
            raise


def _pieces_of(response: httpx.Response) -> AsyncIterator[bytes]:
    # Not with the response's own iterators, which count and cut again.
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
    return UpstreamMalformed(str(error)) if isinstance(error, NotDecodable) else to_upstream_error(error)
