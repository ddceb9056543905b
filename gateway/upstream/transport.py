"""One exchange with the upstream: limits of time and memory, repeats, and errors of the gateway instead of a library.

Nothing above this module knows how requests get to the upstream.
"""

from __future__ import annotations

import asyncio
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

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
from gateway.time_limits import TimeLimits
from gateway.upstream.causes import cause_of_loss
from gateway.upstream.compression import NotDecodable, decoded
from gateway.upstream.connection import ConnectionLost, NotSent, ReusedConnectionLost
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.http_request import HttpRequest, encode_request, origin_of
from gateway.upstream.memory import BodyReservation, ReservationExceeded
from gateway.upstream.resolver import Resolver
from gateway.upstream.response_parser import InvalidResponse, ResponseHead
from gateway.upstream.shortage import ShortageLog, shortage_in

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.clock import Clock, PauseTimeout
    from gateway.limits.fair_budget import FairBudget
    from gateway.time_limits import TimeLimit
    from gateway.upstream.connection_pool import AnyConnection

MAX_ERROR_BODY_BYTES = 1 << 20
# How long to wait for the body of an error response.
ERROR_BODY_SECONDS = 5.0
# More digits cannot be a length, and int() rejects thousands of them.
MAX_LENGTH_DIGITS = 19
# How long a looked-up address is used for new connections, in seconds.
DNS_SECONDS = 10
# A request that is not a read is not repeated, so it takes no connection that the upstream may be about to close:
# common servers do so after 5 idle seconds.
UNREPEATABLE_IDLE_SECONDS = 4.0
# Exceptions of an exchange that are not errors of the gateway yet.
LIBRARY_ERRORS = (TimeoutError, NotSent, ConnectionLost, InvalidResponse, NotDecodable, OSError)


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
        clock: measures all times and limits.
        timeouts: limits of each exchange.
        idle_seconds: how long an unused HTTP/1.1 connection is kept.
        max_connections: concurrent exchanges. Further ones wait, and their time limits start when they get a slot.
        max_response_bytes: the largest decoded body.
        budget: bodies over 1 MiB reserve their memory here.
        tls: verifies the certificate of an https upstream, and offers HTTP/2 or not.
        proxy: the URL of an HTTP proxy, or None.
        observer: counts each exchange.
        abandoned: is called with the begin of an exchange that was cancelled before a response came.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        timeouts: Timeouts,
        idle_seconds: float,
        max_connections: int,
        max_response_bytes: int,
        budget: FairBudget,
        tls: ssl.SSLContext,
        proxy: str | None,
        observer: RequestObserver,
        abandoned: Callable[[float], None],
    ) -> None:
        self._budget = budget
        self._observer = observer
        self._abandoned = abandoned
        self._timeouts = timeouts
        self._clock = clock
        self._time_limits = TimeLimits(clock)
        self._max_response_bytes = max_response_bytes
        # Not the pool's own limit: waiting there counts as connecting, and would look like an outage.
        self._slots = asyncio.Semaphore(max_connections)
        self._shortages = ShortageLog(clock.monotonic)
        self._has_proxy = proxy is not None
        self._pool = ConnectionPool(
            Resolver(clock, self._time_limits, timeouts.connect, DNS_SECONDS),
            clock,
            self._time_limits,
            connect_seconds=timeouts.connect,
            idle_seconds=idle_seconds,
            max_connections=max_connections,
            tls=tls,
            proxy=None if proxy is None else origin_of(proxy),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()
        self._time_limits.close()

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
        request = encode_request(method, url, headers, body, through_proxy=self._has_proxy)
        # Not a DELETE: the first one may have taken effect, so the response to a second one could be an error.
        repeatable = method == "GET"
        reservation = BodyReservation(self._budget, owner, self._max_response_bytes, pause, repeatable=repeatable)
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
                sent = not isinstance(error, NotSent | RuntimeError)
                raise GatewayOverloaded(
                    f"the gateway ran out of a resource ({name})", may_have_been_sent=sent
                ) from error
            if not isinstance(error, LIBRARY_ERRORS):
                raise
            raise _map_exception(error) from error

    async def _within_time(self, request: HttpRequest, reservation: BodyReservation) -> HttpResponse:
        complete = False
        try:
            with self._time_limits.until(self._clock.monotonic() + self._timeouts.total) as limit:
                try:
                    response = await self._exchange(request, reservation, limit)
                except ReusedConnectionLost:
                    # The upstream closed an idle connection when the request was sent, or a late response arrived on
                    # it. Only a read is safe to repeat.
                    if request.method != "GET":
                        raise
                    response = await self._exchange(request, reservation, limit, new_connection=True)
            complete = True
        finally:
            if not complete:
                reservation.release()
        return response

    async def _exchange(
        self,
        request: HttpRequest,
        reservation: BodyReservation,
        limit: TimeLimit,
        *,
        new_connection: bool = False,
    ) -> HttpResponse:
        started = self._clock.monotonic()
        status: int | None = None
        body = io.BytesIO()
        cancelled = False
        try:
            max_idle = math.inf if request.method == "GET" else UNREPEATABLE_IDLE_SECONDS
            connection = await self._pool.acquire(request.key, max_idle, new=new_connection)
            try:
                head = await connection.exchange(request.head, request.body, self._timeouts.read)
                status = head.status if 200 <= head.status < 600 else None
                return await self._read_response(head, connection, body, reservation, limit)
            finally:
                self._pool.release(connection)
        except asyncio.CancelledError:
            # If `limit` has expired, this is a timeout and not a cancellation.
            cancelled = not limit.expired
            if cancelled and status is None:
                self._abandoned(started)
            raise
        finally:
            size = body.tell()
            # Free the body now, because the frames of an error keep it until the next garbage collection.
            body.close()
            if not cancelled:
                self._observer.exchanged(request.method, status, self._clock.monotonic() - started, size)

    async def _read_response(
        self,
        head: ResponseHead,
        connection: AnyConnection,
        body: io.BytesIO,
        reservation: BodyReservation,
        limit: TimeLimit,
    ) -> HttpResponse:
        success = 200 <= head.status < 300
        try:
            if not 200 <= head.status < 600:
                raise UpstreamMalformed(f"the upstream responded with the status {head.status}")
            if success:
                await self._read(head, connection, body, reservation, limit)
            else:
                await self._read_error(head, connection, body, limit)
        except LIBRARY_ERRORS as error:
            if shortage_in(error) is not None or isinstance(error, ReusedConnectionLost):
                raise
            mapped = _map_exception(error)
            mapped.http_status = head.status
            raise mapped from error
        except UpstreamError as error:
            error.http_status = head.status
            raise
        reservation.shrink(body.tell())
        return HttpResponse(
            head.status,
            # Without a copy, because copying a large body would block the event loop.
            body.getvalue(),
            retry_after=None if success else head.headers.get("retry-after"),
            reservation=None if reservation.empty else reservation,
            location=head.headers.get("location") if success else None,
        )

    async def _read(
        self,
        head: ResponseHead,
        connection: AnyConnection,
        body: io.BytesIO,
        reservation: BodyReservation,
        limit: TimeLimit,
    ) -> None:
        read = _reader(head, connection)
        # Count decoded bytes, because a small compressed body may become a huge one.
        while piece := await read():
            size = body.tell() + len(piece)
            if size > self._max_response_bytes:
                raise UpstreamResponseTooLarge(
                    f"the upstream's response is larger than {self._max_response_bytes} bytes"
                )
            while size > reservation.size:
                await reservation.grow(_announced_size(head), limit)
            body.write(piece)

    async def _read_error(
        self, head: ResponseHead, connection: AnyConnection, body: io.BytesIO, limit: TimeLimit
    ) -> None:
        # The status of an error counts, even if its body is incomplete or never ends.
        now = self._clock.monotonic()
        until = min(now + ERROR_BODY_SECONDS, limit.moment - (limit.moment - now) / 10)
        try:
            with self._time_limits.until(until):
                read = _reader(head, connection)
                while body.tell() < MAX_ERROR_BODY_BYTES and (piece := await read()):
                    body.write(piece[: MAX_ERROR_BODY_BYTES - body.tell()])
        except LIBRARY_ERRORS as error:
            # In this case it may be the response to an earlier request.
            if isinstance(error, ReusedConnectionLost):
                raise


def _announced_size(head: ResponseHead) -> int | None:
    length = head.headers.get("content-length", "")
    return (
        int(length)
        if length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS and "content-encoding" not in head.headers
        else None
    )


def _reader(head: ResponseHead, connection: AnyConnection) -> Callable[[], Awaitable[bytes]]:
    """Return a function that returns the next decoded piece of a body, or nothing at its end."""
    encoding = head.headers.get("content-encoding", "")
    if not encoding:
        return connection.read
    pieces = decoded(_EncodedPieces(connection), encoding)

    async def read() -> bytes:
        async for piece in pieces:
            if piece:
                return piece
        return b""

    return read


class _EncodedPieces:
    """The pieces of a body as they arrive. Not a generator, because the event loop keeps a list of async ones."""

    __slots__ = ("_connection",)

    def __init__(self, connection: AnyConnection) -> None:
        self._connection = connection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._connection.read():
            return piece
        raise StopAsyncIteration


def _map_exception(error: Exception) -> UpstreamError:
    if isinstance(error, NotSent):
        return UpstreamUnreachable(str(error), cause=error.cause)
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not respond in time")
    if isinstance(error, NotDecodable | InvalidResponse):
        return UpstreamMalformed(str(error))
    cause = cause_of_loss(error.__cause__ if isinstance(error, ConnectionLost) else error)
    return UpstreamConnectionLost(f"the connection to the upstream was lost: {cause}", cause=cause)
