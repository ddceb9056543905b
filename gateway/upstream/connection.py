"""One connection to the upstream, which carries one exchange after another, with HTTP/1.1 or HTTP/2.

Its exceptions say whether the upstream can have read the request.
"""

from __future__ import annotations

import asyncio
import select
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from gateway.clock import RearmableTimer
from gateway.upstream.paced_input import PacedInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.upstream.response_parser import ResponseHead

# A first read of at most this size is parsed without measuring how long it takes. Almost every response is one.
SMALL_BYTES = 4 << 10
# A request is written in pieces of this size, and no further once the response has come.
WRITE_BYTES = 64 << 10
# Event loop iterations in which a write yields to pending input.
TURNS = 10


class NotSent(Exception):
    """Nothing of the request was sent, or the upstream declared that it did not process it.

    `cause` is the message in short, without advice.
    """

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message


class ConnectionLost(Exception):
    """The connection ended before the response did. The upstream may have read the request."""


class ReusedConnectionLost(ConnectionLost):
    """A connection that was used before ended before the first byte of this response.

    The upstream may have closed it while the request was on its way.
    """


class State(Enum):
    """The state of a connection.

    Usually IDLE, SENDING, SENT, and IDLE again. Each error ends in SPENT.
    """

    # The next request may be sent.
    IDLE = auto()
    # A request is being sent.
    SENDING = auto()
    # The whole request was sent. Its response has not ended.
    SENT = auto()
    # A response came before the whole request was sent, and has not ended. The rest of the request is not sent.
    CUT_SHORT = auto()
    # No other request may be sent, and the last exchange has ended.
    SPENT = auto()


# Looking up a member in the class takes ten times as long.
IDLE, SENDING, SENT, CUT_SHORT, SPENT = State


class Parser(Protocol):
    """Parses one response after another.

    Attributes:
        begun: Whether a part of the response came.
        head: Status and headers, once they are complete.
        complete: Whether the whole response was parsed.
        buffered: How many bytes of the body `take` returns.
    """

    begun: bool
    head: ResponseHead | None
    complete: bool
    buffered: int

    def begin(self) -> None:
        """Expect the response to another request."""

    def take(self) -> bytes:
        """Return the bytes of the body that were parsed since the last call."""


P = TypeVar("P", bound=Parser)


class Connection(ABC, asyncio.Protocol, Generic[P]):
    """A connection that carries one exchange at a time.

    Call `exchange`, then `read` until it returns nothing. Check `is_reusable` before the next exchange.

    Attributes:
        idle_seconds: How long it may be unused before any request; None if that depends on the next request.

    Args:
        loop: The running event loop.
        clock: Measures the silence of the upstream.
        lost: Is called once, when the connection has ended.
        parser: Parses the responses.
    """

    idle_seconds: ClassVar[float | None]

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, lost: Callable[[Any], None], parser: P) -> None:
        self._loop = loop
        self._clock = clock
        self._lost = lost
        self._parser = parser
        self._transport: Any = None
        self._poll = select.poll()
        self._input = PacedInput(loop)
        self._state = IDLE
        # How many exchanges were begun. Only in the first one, no byte can belong to an earlier exchange.
        self._exchanges = 0
        # Why the exchange failed.
        self._error: Exception | None = None
        # Why the connection ended. Bytes that came before may still wait to be parsed.
        self._cause: Exception | None = None
        # The longest silence of the upstream, and the timer that expires after it.
        self._silence_seconds = 0.0
        self._silence = RearmableTimer(clock, self._check_silence)
        # False while the buffer of the socket is full.
        self._writable = True
        # Wakes the task of the exchange.
        self._wakeup: asyncio.Future[None] | None = None
        # Set when the connection has ended. The exchange may go on with bytes that came before.
        self._closed = asyncio.Event()

    # The exchange

    async def exchange(self, head: bytes, body: bytes, silence: float) -> ResponseHead:
        """Send a request, and return the head of its response.

        Args:
            head: The request line and headers of HTTP/1.1, with the empty line.
            body: The body.
            silence: The longest wait for the first byte of the response, and between two reads of it, in seconds.

        Raises:
            NotSent: The connection had ended, or the upstream declared that it did not process the request.
            ConnectionLost: The connection ended.
            InvalidResponse: The response is not valid HTTP, or exceeds a limit.
            TimeoutError: The upstream was silent.
        """
        self._silence_seconds = silence
        if not self._exchanges:
            # Session tickets of TLS may wait to be read, and settings of HTTP/2. Bytes of HTTP/1.1 end the connection.
            await self._read_arrived()
        if self._state is not IDLE or self._closed.is_set() or self._transport.is_closing():
            self.close()
            raise NotSent("the upstream closed the connection, or wrote to it, before the request")
        await self._send(head, body)
        if self._parser.head is None:
            self._has_sent()
        while self._parser.head is None:
            await self._progress()
        return self._parser.head

    @abstractmethod
    async def _send(self, head: bytes, body: bytes) -> None:
        """Begin an exchange, and send the request until the response comes. Raises the errors of `exchange`."""

    async def read(self) -> bytes:
        """Return the next piece of the body, or nothing at its end. Raises the errors of `exchange`."""
        while True:
            # Bytes from before the loss of the connection are part of the response. Other errors put them in doubt.
            if self._error is not None and type(self._error) is not ConnectionLost:
                raise self._error
            if self._parser.buffered:
                return self._take()
            if self._parser.complete:
                return b""
            await self._progress()

    def _take(self) -> bytes:
        piece = self._parser.take()
        self._input.release(self)
        return piece

    async def _progress(self) -> None:
        """Wait until bytes arrive, more can be sent, or the exchange fails. Raises the error of the exchange."""
        if self._error is not None:
            raise self._error
        self._wakeup = self._loop.create_future()
        try:
            await self._wakeup
        finally:
            self._wakeup = None

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _awaits_response(self) -> bool:
        """Let the event loop read a response that has arrived, then wait until more can be sent.

        If the upstream has closed, a write fails and ends the connection, and a response that was not read is lost.

        Returns:
            Whether the response has not begun.
        """
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self._parser.head is not None or not self._has_input():
                break
        while self._parser.head is None and (self._error is not None or not self._can_send()):
            await self._progress()
        return self._parser.head is None

    def _can_send(self) -> bool:
        return self._writable

    # The state. It changes only here.

    @property
    def _in_exchange(self) -> bool:
        return self._state is not IDLE and self._state is not SPENT

    def _begin(self) -> None:
        self._state = SENDING
        self._exchanges += 1
        self._parser.begin()
        self._input.begin()

    def _has_sent(self) -> None:
        if self._state is SENDING:
            self._state = SENT
            self._restart_silence()

    def _cut_short(self) -> None:
        self._state = CUT_SHORT

    def _complete(self, *, reusable: bool) -> None:
        self._state = IDLE if reusable and self._state is SENT else SPENT

    def _spend(self, error: Exception | None = None) -> None:
        self._state = SPENT
        self._error = error or self._error
        self._input.drop()

    def _fail(self, error: Exception | None) -> None:
        self._spend(error)
        self._transport.abort()
        self._wake()

    # Between two exchanges

    @property
    def may_be_kept(self) -> bool:
        """True if the next request may be sent."""
        return self._state is IDLE

    @property
    def is_reusable(self) -> bool:
        """True if it may be kept, is open, and has no bytes to be read."""
        return self.may_be_kept and self._input.empty and not self._has_input()

    def _has_input(self) -> bool:
        """Check for unread bytes, an unread end or error, and for the end of the connection."""
        return self._closed.is_set() or self._transport.is_closing() or bool(self._poll.poll(0))

    async def _read_arrived(self) -> None:
        for _ in range(TURNS):
            if not self._has_input():
                break
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close the connection, and drop all bytes that still arrive."""
        self._spend()
        if self._closed.is_set():
            return
        # `close` would first send the rest of the request.
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        elif not self._transport.is_closing():
            # A second `close` would break asyncio's TLS transport.
            self._before_close()
            self._transport.close()

    def _before_close(self) -> None:
        """Write what the upstream should know."""

    def abort(self) -> None:
        """Close the connection immediately, without TLS close_notify."""
        self.close()
        if not self._closed.is_set():
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        await self._closed.wait()

    # The silence of the upstream

    def _restart_silence(self) -> None:
        self._silence.set(self._clock.monotonic() + self._silence_seconds)

    def _check_silence(self) -> None:
        # A request that is still being sent is limited by the time of the whole exchange only.
        if self._state is SENT or self._state is CUT_SHORT:
            if self._waits_for_reader():
                self._restart_silence()
            else:
                self._fail(TimeoutError("the upstream did not respond in time"))

    def _waits_for_reader(self) -> bool:
        """Return whether the gateway itself does not read on."""
        return self._input.paused

    # Callbacks of the event loop and of the input

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by the event loop)."""
        self._transport = transport
        self._input.start(transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def pause_writing(self) -> None:
        """Stop writing, because the socket buffer is full (called by the event loop)."""
        self._writable = False

    def resume_writing(self) -> None:
        """Continue to write (called by the event loop)."""
        self._writable = True
        self._wake()

    @abstractmethod
    def parse(self, data: bytes, at: int) -> int:
        """Parse some of the bytes from `at`, and return where the rest begins (called by the input)."""

    def resumed(self) -> None:
        """Continue after bytes that waited were parsed (called by the input)."""
        if not self._input.paused:
            if self._closed.is_set():
                self._finish()
            else:
                self._restart_silence()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse the bytes that came before the end, then end the exchange (called by the event loop)."""
        self._closed.set()
        self._silence.close()
        self._lost(self)
        self._cause = exc
        if self._in_exchange:
            self._parse_unread()
        if not self._input.paused:
            self._finish()

    def _parse_unread(self) -> None:
        """Parse bytes that the event loop has not read."""

    def _finish(self) -> None:
        error: ConnectionLost | None = None
        if self._in_exchange and (error := self._loss()) is not None:
            error.__cause__ = self._cause
        self._spend(error)
        self._wake()

    @abstractmethod
    def _loss(self) -> ConnectionLost | None:
        """Return the error of an exchange that the end of the connection cut off, or None if it is complete."""
