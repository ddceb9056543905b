"""One HTTP exchange with the upstream; foreign exceptions become ours here, once."""

from __future__ import annotations

import asyncio
import io
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

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
from gateway.upstream.compression import NotDecodable, decoded
from gateway.upstream.connection import ConnectionLost, NotSent, ReusedConnectionLost
from gateway.upstream.connection_pool import ConnectionPool, Key, Origin
from gateway.upstream.memory import BodyReservation, ReservationExceeded
from gateway.upstream.resolver import Resolver
from gateway.upstream.response_parser import InvalidResponse, ResponseHead
from gateway.upstream.shortage import ShortageLog, shortage_in

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from gateway.clock import PauseTimeout
    from gateway.limits.fair_budget import FairBudget
    from gateway.upstream.connection import Connection

MAX_ERROR_BODY_BYTES = 1 << 20
# How long what a refusal says is waited for.
REFUSAL_SECONDS = 5.0
# More digits are no length but nulls, and int() refuses some thousand of them.
MAX_LENGTH_DIGITS = 19
# Of more jobs than there may be watches by default; each takes about 1 KB.
KNOWN_URLS = 32_768
# How long the addresses of the upstream's name are used for new connections, in seconds.
DNS_SECONDS = 10
# A request that is not a read is not repeated, so it takes no connection that the upstream may be about to close:
# common servers do so after 5 idle seconds.
UNREPEATABLE_IDLE_SECONDS = 4.0
DEFAULT_PORTS = {"http": 80, "https": 443}
# What an exchange may raise that is not one of the gateway's own errors.
LIBRARY_ERRORS = (TimeoutError, NotSent, ConnectionLost, InvalidResponse, NotDecodable, OSError)


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


class _Target(NamedTuple):
    origin: Origin
    authority: str
    path: str


class _Request(NamedTuple):
    method: str
    key: Key
    head: bytes
    body: bytes

    @property
    def max_idle_seconds(self) -> float:
        return math.inf if self.method == "GET" else UNREPEATABLE_IDLE_SECONDS


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
        self._through_proxy = proxy is not None
        self._observer = observer
        self._timeouts = timeouts
        self._max_response_bytes = max_response_bytes
        # Not the pool's own limit: waiting for it counts as connecting, and our own queue would look like an outage.
        self._slots = asyncio.Semaphore(max_connections)
        self._shortages = ShortageLog(time.monotonic)
        self._pool = ConnectionPool(
            Resolver(timeouts.connect, DNS_SECONDS),
            connect_seconds=timeouts.connect,
            idle_seconds=idle_seconds,
            max_connections=max_connections,
            tls=tls,
            proxy=None if proxy is None else _target(proxy).origin,
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

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
        request = self._request(method, url, headers, body)
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
                sent = not isinstance(error, NotSent | RuntimeError)
                raise GatewayOverloaded(
                    f"the gateway has too little of what it needs ({name})", may_have_been_sent=sent
                ) from error
            if not isinstance(error, LIBRARY_ERRORS):
                raise
            raise _map_exception(error) from error

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> _Request:
        target = _target(url)
        # A proxy is told the whole address of a plain upstream. To a secure one, it opens a tunnel.
        path = url if self._through_proxy and not target.origin.secure else target.path
        lines = [f"{method} {path} HTTP/1.1", f"host: {target.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode()
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or b"\0" in head:
            raise ValueError("a header has a line break in it")
        return _Request(method, Key(target.origin, headers.get("authorization", "")), head, body or b"")

    async def _within_time(self, request: _Request, reservation: BodyReservation) -> HttpResponse:
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
                    answer = await self._exchange(request, reservation, limit, new_connection=True)
            complete = True
        finally:
            if not complete:
                reservation.release()
        return answer

    async def _exchange(
        self, request: _Request, reservation: BodyReservation, limit: asyncio.Timeout, *, new_connection: bool = False
    ) -> HttpResponse:
        clock = asyncio.get_running_loop().time
        began = clock()
        status: int | None = None
        body = io.BytesIO()
        given_up = False
        try:
            connection = await self._pool.acquire(request.key, request.max_idle_seconds, new=new_connection)
            try:
                head = await connection.exchange(request.head, request.body, self._timeouts.read)
                status = head.status if 200 <= head.status < 600 else None
                return await self._answer(head, connection, body, reservation, limit)
            finally:
                self._pool.release(connection)
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
        self,
        head: ResponseHead,
        connection: Connection,
        body: io.BytesIO,
        reservation: BodyReservation,
        limit: asyncio.Timeout,
    ) -> HttpResponse:
        success = 200 <= head.status < 300
        try:
            if not 200 <= head.status < 600:
                raise UpstreamMalformed(f"the upstream's response has the status {head.status}")
            if success:
                await self._read(head, connection, body, reservation, limit)
            else:
                await _read_refusal(head, connection, body, limit)
        except LIBRARY_ERRORS as error:
            if shortage_in(error) is not None or isinstance(error, ReusedConnectionLost):
                raise
            ours = _map_exception(error)
            ours.http_status = head.status
            raise ours from error
        except UpstreamError as error:
            error.http_status = head.status
            raise
        reservation.shrink(body.tell())
        retry_after = None if success else head.headers.get("retry-after")
        location = head.headers.get("location") if success else None
        # Without a copy, which of a large answer would hold the event loop.
        return HttpResponse(
            head.status, body.getvalue(), retry_after, None if reservation.empty else reservation, location
        )

    async def _read(
        self,
        head: ResponseHead,
        connection: Connection,
        body: io.BytesIO,
        reservation: BodyReservation,
        limit: asyncio.Timeout,
    ) -> None:
        # Decoded bytes are counted: a small compressed answer may hold a huge one.
        async for piece in _pieces_of(head, connection):
            size = body.tell() + len(piece)
            if size > self._max_response_bytes:
                raise UpstreamResponseTooLarge(f"the upstream's answer is larger than {self._max_response_bytes} bytes")
            while size > reservation.size:
                await reservation.grow(_announced(head), limit)
            body.write(piece)


@lru_cache(maxsize=KNOWN_URLS)
def _target(url: str) -> _Target:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == DEFAULT_PORTS[parts.scheme] else f"{shown}:{port}"
    path = parts.path or "/"
    return _Target(
        Origin(parts.scheme == "https", host, port), authority, f"{path}?{parts.query}" if parts.query else path
    )


def _announced(head: ResponseHead) -> int | None:
    length = head.headers.get("content-length", "")
    return (
        int(length)
        if length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS and "content-encoding" not in head.headers
        else None
    )


async def _read_refusal(head: ResponseHead, connection: Connection, body: io.BytesIO, limit: asyncio.Timeout) -> None:
    # What a refusal says is worth less than that it is one: neither an answer that breaks off nor one that does not end
    # may turn it into something else.
    now = asyncio.get_running_loop().time()
    until = limit.when() or now
    try:
        async with asyncio.timeout_at(min(now + REFUSAL_SECONDS, until - (until - now) / 10)):
            async for piece in _pieces_of(head, connection):
                body.write(piece[: MAX_ERROR_BODY_BYTES - body.tell()])
                if body.tell() == MAX_ERROR_BODY_BYTES:
                    break
    except LIBRARY_ERRORS as error:
        # Then it may be a refusal of an earlier request.
        if isinstance(error, ReusedConnectionLost):
            raise


def _pieces_of(head: ResponseHead, connection: Connection) -> AsyncIterator[bytes]:
    pieces = _pieces(connection)
    encoding = head.headers.get("content-encoding", "")
    return decoded(pieces, encoding) if encoding else pieces


async def _pieces(connection: Connection) -> AsyncIterator[bytes]:
    while piece := await connection.read():
        yield piece


def _map_exception(error: Exception) -> UpstreamError:
    if isinstance(error, NotSent):
        return UpstreamUnreachable("no connection to the upstream could be made")
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not respond in time")
    if isinstance(error, NotDecodable | InvalidResponse):
        return UpstreamMalformed(str(error))
    return UpstreamConnectionLost("the connection to the upstream was lost")
