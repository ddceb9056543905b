"""A connection to the upstream with HTTP/2. It carries one exchange at a time, like those with HTTP/1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import h2.exceptions
from h2.errors import ErrorCodes

from gateway.upstream.connection import (
    IDLE,
    SENDING,
    SMALL_BYTES,
    SPENT,
    WRITE_BYTES,
    Connection,
    ConnectionLost,
    NotSent,
)
from gateway.upstream.http2_codec import http2_codec
from gateway.upstream.http2_parser import Http2Parser
from gateway.upstream.http_request import http2_fields
from gateway.upstream.response_parser import InvalidResponse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.clock import Clock

# h2 remembers each stream.
MAX_EXCHANGES = 10_000


class Http2Connection(Connection[Http2Parser]):
    """A connection with HTTP/2. A request that meets its end is known to be unprocessed."""

    # Less than the 60 seconds after which common load balancers close.
    idle_seconds: ClassVar[float | None] = 50.0

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, lost: Callable[[Http2Connection], None]) -> None:
        self._codec = http2_codec()
        super().__init__(loop, clock, lost, Http2Parser(self._codec))

    # The request

    async def _send(self, head: bytes, body: bytes) -> None:
        self._begin()
        try:
            stream = self._parser.stream = self._codec.get_next_available_stream_id()
            self._codec.send_headers(stream, http2_fields(head), end_stream=not body)
        except h2.exceptions.ProtocolError as error:
            self.close()
            raise NotSent("the upstream takes no further request on the connection") from error
        await self._send_body(body)

    async def _send_body(self, body: bytes) -> None:
        view, at = memoryview(body), 0
        while True:
            until = min(len(body), at + WRITE_BYTES)
            while at < until and (window := self._window()) > 0:
                end = min(until, at + min(window, self._codec.max_outbound_frame_size))
                self._codec.send_data(self._parser.stream, view[at:end], end_stream=end == len(body))
                self._parser.limits.allow_body(end - at)
                at = end
            self._flush()
            if at == len(body) or not await self._awaits_response():
                return

    def _can_send(self) -> bool:
        return self._writable and self._window() > 0

    def _window(self) -> int:
        return self._codec.local_flow_control_window(self._parser.stream)

    def _flush(self) -> None:
        if (data := self._codec.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    # The response

    def data_received(self, data: bytes) -> None:
        """Parse frames, a few at a time (called by the event loop)."""
        if self._state is not SPENT:
            self._input.feed(data, self, measured=self._parser.begun or len(data) > SMALL_BYTES)
            self._wake()

    def parse(self, data: bytes, at: int) -> int:
        """Parse a few frames from `at`, and return where the next one begins (called by the input)."""
        parts = self._parser.parts
        try:
            at = self._parser.feed(data, at)
        except InvalidResponse as error:
            # A complete response counts, whatever follows it.
            self._fail(None if self._parser.complete else error)
        except (NotSent, ConnectionLost) as error:
            self._spend(error)
        else:
            self._follow(parts)
        self._flush()
        return len(data) if self._state is SPENT else at

    def _follow(self, parts: int) -> None:
        """Change the state as the frames require. `parts` is the number of parts of the response before them."""
        parser = self._parser
        if self._state is SENDING and parser.head is not None:
            self._cut_short()
        if self._in_exchange and parser.complete:
            self._complete(reusable=not parser.going_away)
        elif self._in_exchange and parser.parts != parts:
            self._restart_silence()
        elif self._state is IDLE and parser.going_away:
            self.close()

    def _take(self) -> bytes:
        piece = super()._take()
        if self._in_exchange:
            self._restart_silence()
            self._flush()
        return piece

    def _waits_for_reader(self) -> bool:
        return self._parser.buffered > 0 or super()._waits_for_reader()

    # The end

    @property
    def may_be_kept(self) -> bool:
        """True if the next request may be sent."""
        return super().may_be_kept and self._exchanges < MAX_EXCHANGES

    async def settle(self) -> bool:
        """Read frames that came after the response, such as settings, and return whether it is reusable then."""
        await self._read_arrived()
        return self.is_reusable

    def _before_close(self) -> None:
        """Cancel an exchange that is not complete, and say goodbye."""
        if self._codec.open_outbound_streams:
            self._codec.reset_stream(self._parser.stream, ErrorCodes.CANCEL)
        self._codec.close_connection()
        self._flush()

    def _loss(self) -> ConnectionLost | None:
        return ConnectionLost("the connection to the upstream was lost")
