"""Connections to the upstream: who may use one again, how fast its bytes are taken, and when an answer is one.

aiohttp does the work. It has no public way to change the points below, so its connector, request and protocol are
extended here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import HttpProcessingError

from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    from multidict import CIMultiDict

# One header may take this much, name and value together.
MAX_HEADER_BYTES = 64 << 10
# All headers of an answer: one of the largest size, and the usual ones beside it.
MAX_HEADERS_BYTES = 72 << 10
# The shortest useful header takes six bytes on the wire.
MAX_HEADER_LINES = MAX_HEADERS_BYTES // 6
# What may come beside the body: headers, the framing of chunks, their extensions, trailers. A chunk of one byte takes
# six; that is wasteful, and no attack.
MAX_FRAMING_BYTES = 384 << 10
MAX_FRAMING_PER_BODY_BYTE = 32
# As much is parsed at once until it is known how quick that is. Of chunks of one byte it takes some milliseconds.
FIRST_SLICE_BYTES = 16 << 10
SMALL_BYTES = 4 << 10
LARGEST_SLICE_BYTES = 1 << 20
SLOW_SLICE_SECONDS = 0.002
WRITE_BYTES = 64 << 10
# What comes before the answer's own head, such as early hints.
MAX_INTERIM_ANSWERS = 100
MAX_INTERIM_BYTES = 1 << 20
# More pieces than this are joined at once: whoever reads them takes one after the other, at a hundred times the cost.
MAX_PIECES = 64
# A request that is not a read is not made again, so it takes no connection that the upstream may be about to close:
# common servers do so after 5 seconds.
UNREPEATABLE_IDLE_SECONDS = 4.0
# Turns of the loop that a write waits for input to be read.
TURNS = 10
SALVAGE_BYTES = 1 << 18

# Whether an exchange must not use a connection that was used before.
NEW_CONNECTION_ONLY: ContextVar[bool] = ContextVar("NEW_CONNECTION_ONLY", default=False)


class ReusedConnectionLost(aiohttp.ClientConnectionError):
    """A connection that was used before has ended before a byte of this answer came."""


class UnsolicitedResponse(aiohttp.ClientConnectionError):
    """Bytes came before a byte of the request was sent: nothing was sent after them."""


class InvalidResponse(aiohttp.ClientError):
    """The bytes are HTTP, and cannot be the answer to the request."""


class DoubtfulAnswer(ReusedConnectionLost, InvalidResponse):
    """More than one response came at once on a connection that was used before.

    The first may be a late one to an earlier request.
    """


class Connector(aiohttp.TCPConnector):
    """A pool of at most `max_connections` connections in which each belongs to one credential.

    A connection is used again only if nothing came on it that nobody asked for. If there are too many, the one that
    was idle for longest is closed for a new one; `max_connections` in use at a time must be seen to by the caller.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._max_connections = max_connections
        self._factory: Any = partial(UpstreamProtocol, loop=self._loop)

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """As aiohttp has it."""
        if self._conns and (kept := self._kept(req)) is not None:
            return kept
        self._make_room()
        return await super().connect(req, *args, **kwargs)

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> None:
        # `connect` has looked.
        return None

    def _kept(self, req: aiohttp.ClientRequest) -> aiohttp.connector.Connection | None:
        # The youngest, which has the best chance to be open still.
        key = req.connection_key
        wires = self._conns.get(key)
        if wires is None or NEW_CONNECTION_ONLY.get():
            return None
        longest = self._keepalive_timeout or 0.0
        if req.method != hdrs.METH_GET:
            longest = min(longest, UNREPEATABLE_IDLE_SECONDS)
        oldest = time.monotonic() - longest
        kept = None
        while wires and kept is None and wires[-1][1] >= oldest:
            wire: Any = wires.pop()[0]
            if wire.is_reusable():
                self._acquired.add(wire)
                kept = aiohttp.connector.Connection(self, key, wire, self._loop)
            else:
                wire.close()
        if not wires:
            del self._conns[key]
        if kept is not None and req.proxy:
            self._update_proxy_auth_header_and_build_proxy_req(req)
        return kept

    def _make_room(self) -> None:
        idle = sum(map(len, self._conns.values()))
        while idle and idle + len(self._acquired) >= self._max_connections:
            # Keys stand in the order in which their first connection became idle.
            key, connections = next(iter(self._conns.items()))
            wire, _ = connections.popleft()
            wire.close()
            if not connections:
                del self._conns[key]
            idle -= 1


class Request(aiohttp.ClientRequest):
    """A request whose body is no longer written once the answer has come."""

    @property
    def connection_key(self) -> ConnectionKey:
        """As aiohttp has it, for this request's credential alone.

        A late answer to one credential's request is then never taken for the answer to another's.
        """
        url = self.url
        # Of the fields of a key, the hash of a proxy's headers is used for nothing else.
        return ConnectionKey(
            url.raw_host or "",
            url.port,
            url.scheme == "https",
            self._ssl,
            self.proxy,
            self.proxy_auth,
            hash(self.headers.get(hdrs.AUTHORIZATION)),
            self.server_hostname,
        )

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """As aiohttp has it."""
        wire = conn.protocol
        if isinstance(wire, UpstreamProtocol):
            if isinstance(unasked := wire.exception(), UnsolicitedResponse):
                raise unasked
            # A body is written by a task, which begins in a later turn of the loop.
            wire.request_begun = wire.request_sent = not self._body
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: aiohttp.connector.Connection, content_length: int | None = None
    ) -> None:
        """As aiohttp has it."""
        wire = conn.protocol
        if isinstance(wire, UpstreamProtocol):
            if isinstance(wire.exception(), UnsolicitedResponse):
                return
            wire.request_begun = True
            writer = _Writer(writer, wire)
        await super().write_bytes(writer, conn, content_length)
        if isinstance(wire, UpstreamProtocol) and not wire.response_begun:
            wire.request_sent = True


class _Writer(AbstractStreamWriter):
    """Writes until the answer has come."""

    def __init__(self, writer: AbstractStreamWriter, wire: UpstreamProtocol) -> None:
        self._writer = writer
        self._wire = wire
        self._begun = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        # A write after the upstream has closed fails, and with it the connection and the answer that is there. What is
        # there is read first, so the less is written at a time, the smaller is the chance to fail.
        for start in range(0, len(chunk), WRITE_BYTES):
            if self._begun and not await self._wire.awaits_response():
                return
            self._begun = True
            await self._writer.write(chunk[start : start + WRITE_BYTES])

    async def write_eof(self, chunk: bytes = b"") -> None:
        if not self._wire.response_begun:
            await self._writer.write_eof(chunk)

    async def drain(self) -> None:
        await self._writer.drain()

    def send_headers(self) -> None:
        self._writer.send_headers()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        await self._writer.write_headers(status_line, headers)

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        self._writer.enable_compression(encoding, strategy)

    def enable_chunking(self) -> None:
        self._writer.enable_chunking()


class UpstreamProtocol(ResponseHandler):
    """One connection, which carries one exchange after another; `exchanges` is how many were begun.

    `request_begun`: the request's first byte was written. `request_sent`: so was its last. `response_begun`: the head
    of the answer came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchanges = 0
        self._poll: select.poll | None = None
        self._begin()

    def _begin(self) -> None:
        self.request_begun = self.request_sent = True
        self.response_begun = False
        self._heard = False
        self._answer: aiohttp.StreamReader | None = None
        self._received = 0
        self._slice = FIRST_SLICE_BYTES
        self._share: EventLoopShare | None = None
        self._rest = b""
        self._resting: asyncio.Handle | None = None
        self._broken = False
        self._lost: tuple[BaseException | None] | None = None
        self._interim_answers = self._interim_bytes = 0
        # What came before the end of the answer's head, to parse it once more.
        self._heads: list[bytes] = []
        self._another = False

    # One exchange after another

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def _has_input(self) -> bool:
        """Whether bytes, an end or an error wait to be read."""
        return self.transport is None or self.transport.is_closing() or bool(self._poll and self._poll.poll(0))

    def set_response_params(self, **params: Any) -> None:
        """An exchange begins."""
        self._begin()
        self.exchanges += 1
        if self._tail:
            self._tail = b""
            self._reject(UnsolicitedResponse("the upstream spoke before it was asked"))
        self._params = params
        super().set_response_params(**params)

    def is_reusable(self) -> bool:
        """Whether nothing has come since the last answer, and the connection is open."""
        return not (self.should_close or self._has_input() or self._has_begun_another())

    def _has_begun_another(self) -> bool:
        try:
            # Part of a second answer, which is told as one that was cut off.
            return self._parser is not None and self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - whatever is wrong with it
            return True

    async def awaits_response(self) -> bool:
        """Lets the loop read what is there; returns whether there is no answer yet."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self.response_begun or self.transport is None or not self._has_input():
                break
        return not self.response_begun

    def _reject(self, error: Exception) -> None:
        self._broken = True
        self.set_exception(error)
        if self.transport is not None:
            self.transport.close()

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Takes bytes, some at a time."""
        if not data:
            self._feed(b"")
        elif self._rest:
            self._rest += data
        elif not self.exchanges:
            super().data_received(data)
        elif not self.request_begun:
            self._reject(UnsolicitedResponse("the upstream answered before it was asked"))
        elif self._answer is not None and self._answer.is_eof():
            # Nobody asked for this: what comes later on this connection cannot be told from it.
            self.force_close()
            if self.transport is not None:
                self.transport.close()
        else:
            if self._heard or len(data) > SMALL_BYTES:
                self._take(data)
            else:
                # Almost every answer: one small piece, whose cost is not worth measuring.
                self._received += len(data)
                self._parse(data)
            self._heard = True

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._parser is not None and not self._broken:
            rest = self._share.rest(self._loop.time()) if self._share is not None else None
            if rest is not None or self._reading_paused:
                self._rest = data[at:]
                self._pause_reading_for_buffer()
                self._drop_timeout()
                if rest:
                    self._resting = self._loop.call_later(rest, self._go_on)
                elif rest is not None:
                    self._resting = self._loop.call_soon(self._go_on)
                return
            piece = data[at : at + self._slice] if at or len(data) > self._slice else data
            at += len(piece)
            self._feed(piece)
            if self._complete and not self._broken and data[at:].strip(b"\r\n"):
                self._end_with_more()

    def _feed(self, piece: bytes) -> None:
        began = time.thread_time()
        self._received += len(piece)
        self._parse(piece)
        if self._answer is not None:
            _join_pieces(self._answer)
        took = time.thread_time() - began
        if took > SLOW_SLICE_SECONDS:
            self._slice = max(FIRST_SLICE_BYTES, self._slice // 2)
        elif len(piece) == self._slice < LARGEST_SLICE_BYTES:
            self._slice *= 2
        if self._share is None:
            self._share = EventLoopShare(self._loop.time())
        self._share.spend(took, self._loop.time(), len(piece))
        body = self._answer.total_bytes if self._answer is not None else 0
        if self._received - body > MAX_FRAMING_BYTES + MAX_FRAMING_PER_BODY_BYTE * body:
            self._reject(InvalidResponse("the upstream's answer has too much beside its body"))

    def _parse(self, data: bytes) -> None:
        if not self.response_begun:
            self._heads.append(data)
        super().data_received(data)
        if self._broken:
            return
        if self.response_begun:
            self._heads.clear()
            if self._another or (self.exchanges > 1 and self._complete and self._has_begun_another()):
                self._end_with_more()
        elif self._interim_answers:
            # aiohttp stops the timer after every head without a body, also if the response is yet to come.
            self._reschedule_timeout()

    @property
    def _complete(self) -> bool:
        return self._answer is not None and self._answer.is_eof()

    def _end_with_more(self) -> None:
        # Bytes follow a complete answer in the same read. It counts if no earlier request can be meant.
        self._broken = True
        self.force_close()
        if self.exchanges > 1:
            error = DoubtfulAnswer("more than the response came on a connection that was used before")
            self._buffer.clear()
            if self._answer is not None:
                self._answer.set_exception(error)
            super().set_exception(error)
        if self.transport is not None:
            self.transport.close()

    def _feed_complete_answer(self) -> None:
        # The parser tells nothing of an answer if bytes that it cannot read follow in the same piece.
        data = b"".join(self._heads)
        super().set_response_params(**self._params)
        parser: Any = self._parser
        code, at = 100, 0
        with contextlib.suppress(ValueError, HttpProcessingError):
            while 100 <= code < 200:
                end = data.index(b"\r\n\r\n", at) + 4
                for message, payload in parser.feed_data(data[at:end])[0]:
                    code, answer = message.code, (message, payload)
                at = end
            with contextlib.suppress(HttpProcessingError):
                parser.feed_data(data[at:])
            if answer[1].is_eof():
                self.feed_data(answer)

    def _go_on(self) -> None:
        self._resting = None
        if self._reading_paused:
            # Parses what the parser had to leave, as far as that goes.
            super().resume_reading()
        data, self._rest = self._rest, b""
        self._take(data)
        if self._rest:
            return
        if self._lost is not None:
            if not self._reading_paused:
                super().connection_lost(*self._lost)
        elif self._buffer_paused:
            self._resume_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """As aiohttp has it, in a later turn of the loop; called for each piece that is read, of use after a pause."""
        if not self._reading_paused:
            return
        if not resume_parser:
            super().resume_reading(resume_parser)
        elif self._resting is None:
            self._resting = self._loop.call_soon(self._go_on)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """The head of an answer has come: interim, or the answer's own."""
        if self._broken:
            return
        if self.response_begun:
            self._another = True
            return
        message, answer = data
        if self._received > MAX_HEADERS_BYTES < sum(len(each[0]) + len(each[1]) + 4 for each in message.raw_headers):
            self._reject(InvalidResponse("the upstream's answer has too many headers, or too large ones"))
            return
        if 100 <= message.code < 200 and message.code != 101:
            self._interim_answers += 1
            self._interim_bytes += self._received
            self._received = 0
            if self._interim_answers > MAX_INTERIM_ANSWERS or self._interim_bytes > MAX_INTERIM_BYTES:
                self._reject(InvalidResponse("the upstream's answer has too many interim ones before it"))
                return
        else:
            early = not self.request_sent or (self.transport is not None and self.transport.get_write_buffer_size() > 0)
            if early and self.exchanges > 1 and 200 <= message.code < 300:
                # A refusal may come early. A success before the request was there belongs to an earlier request.
                self._reject(InvalidResponse("the upstream answered well before it had the whole request"))
                return
            if early:
                self.force_close()
            self.response_begun = True
            self._answer = answer
        super().feed_data(data, size)

    # How it ends

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """The connection has failed, or what comes is not HTTP."""
        if isinstance(self._exception, UnsolicitedResponse | InvalidResponse):
            return
        if isinstance(exc, HttpProcessingError) and not self._broken:
            if not self.response_begun:
                self._feed_complete_answer()
            if self._complete:
                self._end_with_more()
                return
        lost = isinstance(exc, OSError | aiohttp.ClientConnectionError) and not isinstance(
            exc, TimeoutError | UnsolicitedResponse
        )
        if lost and not self.response_begun and self._lost is None:
            self._take_salvage(self._salvage())
        self._broken = self._broken or not lost
        if self.response_begun:
            self._should_close = True
            self._drop_timeout()
            if isinstance(exc, HttpProcessingError):
                exc = InvalidResponse("the upstream's answer is not HTTP that can be read")
            if isinstance(exc, InvalidResponse) and self._payload is not None:
                self._payload.set_exception(exc)
                # The loss of the connection, which follows, would be told in its place.
                self._payload = None
            return
        if lost and self.exchanges > 1 and not self._heard:
            exc, cause = ReusedConnectionLost(str(exc)), (exc,)
        super().set_exception(exc, *cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended. What came before its end is taken first, as slowly as if it had not."""
        if not self.response_begun and self._parser is not None and not self._broken:
            salvage = self._salvage()
            if self._rest:
                self._rest += salvage
            else:
                self._take_salvage(salvage)
        if self.transport is None or self._broken or not (self._rest or self._reading_paused):
            self._stop_resting()
            super().connection_lost(exc)
            return
        self._should_close = True
        self._lost = (exc,)

    def close(self) -> None:
        """Nobody wants what still comes."""
        self._stop_resting()
        if self._lost is not None:
            super().connection_lost(*self._lost)
        super().close()

    def _stop_resting(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _take_salvage(self, data: bytes) -> None:
        if data:
            self._heard = True
            self._take(data)

    def _salvage(self) -> bytes:
        """Reads what has arrived at a connection to which nothing can be written any more.

        The event loop gives such a connection up unread. Of TLS, the loop keeps what it would take to read it.
        """
        transport = self.transport
        if (
            transport is None
            or not self.request_begun
            or self._parser is None
            or transport.get_extra_info("sslcontext")
        ):
            return b""
        # The socket is open until `connection_lost` returns.
        connection = transport.get_extra_info("socket")
        try:
            return os.read(connection.fileno(), SALVAGE_BYTES) if connection is not None else b""
        except OSError:
            return b""


def _join_pieces(answer: aiohttp.StreamReader) -> None:
    pieces, ends = answer._buffer, answer._http_chunk_splits  # noqa: SLF001 - no public way
    if len(pieces) > MAX_PIECES and not answer._buffer_offset:  # noqa: SLF001
        whole = b"".join(pieces)
        pieces.clear()
        pieces.append(whole)
    if ends is not None and len(ends) > MAX_PIECES:
        # The last one is where the next chunk begins; nobody asks for the others.
        last = ends[-1]
        ends.clear()
        ends.append(last)
