"""The bytes of a connection, parsed in steps, so that one response does not keep the event loop from other tasks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    import asyncio

# Parsed in one step until it is known how long that takes: chunks of one byte take a hundred times as long as others.
FIRST_SLICE_BYTES = 16 << 10
LARGEST_SLICE_BYTES = 1 << 20
SLOW_SLICE_SECONDS = 0.001


class InputReader(Protocol):
    """Parses the bytes of a `PacedInput`."""

    def parse(self, data: bytes, at: int) -> int:
        """Parse some of the bytes from `at`, and return where the rest begins: at `at` if more bytes are needed."""

    def resumed(self) -> None:
        """Continue, because bytes that waited were parsed. Some may wait again."""


class PacedInput:
    """Passes bytes to a reader until its share of the event loop is used up, and the rest of them later.

    While bytes wait, nothing is read from the socket. The reader is passed to each method that may need it, because an
    attribute would make a reference cycle.

    Attributes:
        paused: Whether bytes wait for time, or for `release`.
        slice_bytes: How many bytes to parse in a step. Changes with the time that they take.

    Args:
        loop: The running event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._unparsed = b""
        # Calls `_go_on`. While the input is paused without it, it waits for `release`.
        self._continuation: asyncio.Handle | None = None
        self.paused = False
        self.begin()

    def start(self, transport: asyncio.BaseTransport) -> None:
        """Control the reading of this transport."""
        self._transport = transport

    def begin(self) -> None:
        """Expect another response. The time of the previous one does not count."""
        self.slice_bytes = FIRST_SLICE_BYTES
        self._share: EventLoopShare | None = None

    @property
    def empty(self) -> bool:
        """True if no bytes are left, and none wait to be read."""
        return not (self.paused or self._unparsed)

    def feed(self, data: bytes, reader: InputReader, *, measured: bool = True) -> None:
        """Parse these bytes after those that are left. `measured`: whether the time that it takes counts."""
        self._unparsed += data
        if not self.paused:
            self._parse(reader, measured=measured)

    def hold(self) -> None:
        """Parse no more until `release` is called."""
        if not self.paused:
            self.paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def release(self, reader: InputReader) -> None:
        """Parse the bytes that wait because of `hold`, in the next iteration of the event loop."""
        if self.paused and self._continuation is None:
            self._continuation = self._loop.call_soon(self._go_on, reader)

    def drop(self) -> None:
        """Forget the bytes that are left."""
        if self._continuation is not None:
            self._continuation.cancel()
            self._continuation = None
        self._unparsed = b""
        self.paused = False

    def _parse(self, reader: InputReader, *, measured: bool) -> None:
        data, at = self._unparsed, 0
        while at < len(data) and not self.paused:
            rest = self._share.rest(self._loop.time()) if measured and self._share is not None else None
            if rest is not None:
                self.hold()
                self._continuation = self._loop.call_later(rest, self._go_on, reader)
                break
            began, since = at, time.thread_time() if measured else 0.0
            at = reader.parse(data, began)
            if measured:
                self._spend(time.thread_time() - since, at - began)
            if at == began:
                break
        self._unparsed = data[at:]

    def _spend(self, took: float, size: int) -> None:
        if took > SLOW_SLICE_SECONDS:
            self.slice_bytes = max(FIRST_SLICE_BYTES, self.slice_bytes // 2)
        elif size == self.slice_bytes < LARGEST_SLICE_BYTES:
            self.slice_bytes *= 2
        if self._share is None:
            self._share = EventLoopShare(self._loop.time())
        self._share.spend(took, self._loop.time(), size)

    def _go_on(self, reader: InputReader) -> None:
        self._continuation = None
        self.paused = False
        self._parse(reader, measured=True)
        if not self.paused and not self._transport.is_closing():
            self._transport.resume_reading()
        reader.resumed()
