"""Parse the HTTP/2 responses of one connection, and recognize the proof that a request was not processed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes

from gateway.upstream.connection import SMALL_BYTES, ConnectionLost, NotSent
from gateway.upstream.http2_frames import DATA, GOAWAY, HEADERS, FrameLimits, last_stream, next_frame
from gateway.upstream.response_parser import (
    MAX_INTERIM_BYTES,
    MAX_INTERIM_RESPONSES,
    READ_HEADERS,
    InvalidResponse,
    ResponseHead,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import h2.connection

# Frames that are read before the time that they took is counted.
FRAMES_AT_A_TIME = 16
SLOW_FRAME_BYTES = 1 << 10


class Http2Parser:
    """Parses one response after another, and the frames between them. Call `begin` before each request.

    Frames are passed to h2 one at a time, because it loses the events of the frames before a broken one. GOAWAY is
    read here: after it, h2 accepts no frame, not even of the response that the upstream still sends.

    Attributes:
        stream: The stream of the request, 0 before the first one.
        begun: Whether a frame of the response came.
        head: Status and headers, once they are complete.
        complete: Whether the whole response was parsed.
        buffered: How many bytes of the body `take` returns.
        parts: How many frames carried a part of the response.
        going_away: Whether the upstream accepts no further request on this connection.
        limits: Counts frames that carry nothing of a response.

    Args:
        codec: The codec of the connection.
    """

    def __init__(self, codec: h2.connection.H2Connection) -> None:
        self._codec = codec
        self.limits = FrameLimits()
        self.stream = 0
        self.going_away = False
        self.begin()

    def begin(self) -> None:
        """Expect the response to another request."""
        self.limits.begin()
        self.begun = self.complete = False
        self.head: ResponseHead | None = None
        self.buffered = self.parts = 0
        self._pieces: list[bytes] = []
        # Flow-controlled bytes that were received and not taken yet.
        self._untaken = 0
        self._interim_responses = self._interim_bytes = 0

    def take(self) -> bytes:
        """Return the bytes of the body that were parsed since the last call, and let the upstream send as many."""
        pieces, self._pieces = self._pieces, []
        untaken, self._untaken = self._untaken, 0
        self.buffered = 0
        self._codec.acknowledge_received_data(untaken, self.stream)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed(self, data: bytes, at: int) -> int:
        """Parse a few frames from `at`, and return where the next one begins.

        Raises:
            InvalidResponse: The bytes are not HTTP/2 that can be read, or exceed a limit.
            NotSent: The upstream declared that it did not process the request.
            ConnectionLost: The upstream ended the stream before the response was complete.
        """
        for _ in range(FRAMES_AT_A_TIME):
            frame = next_frame(data, at)
            if frame is None:
                break
            at += len(frame.raw)
            self.limits.check(frame)
            if frame.kind == GOAWAY:
                self._take_goaway(last_stream(frame))
            else:
                # h2 has no event for headers that continue in another frame.
                self.begun = self.begun or frame.kind == HEADERS
                self._parse_frame(frame.raw)
            # Headers of 64 KiB take up to 15 ms.
            if frame.kind != DATA and len(frame.raw) > SLOW_FRAME_BYTES:
                break
        return at

    def _parse_frame(self, frame: bytes) -> None:
        try:
            for event in self._codec.receive_data(frame):
                self._take_event(event)
        except h2.exceptions.ProtocolError as error:
            raise InvalidResponse("the upstream's response is not HTTP/2 that can be read") from error

    def _take_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._take_data(event)
        elif isinstance(event, h2.events.ResponseReceived):
            self._take_head(event.headers or [])
        elif isinstance(event, h2.events.StreamEnded):
            self.complete = True
        elif isinstance(event, h2.events.StreamReset):
            self._take_reset(event)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self._take_interim(event.headers or [])

    # The response

    def _take_data(self, event: h2.events.DataReceived) -> None:
        self.begun = True
        self._untaken += event.flow_controlled_length or 0
        if event.data:
            self.parts += 1
            self._pieces.append(event.data)
            self.buffered += len(event.data)
            self.limits.allow_body(len(event.data))
            return
        self.limits.count_other()
        if self._untaken > self.buffered + SMALL_BYTES:
            # Padding is taken by nobody.
            self._codec.acknowledge_received_data(self._untaken - self.buffered, self.stream)
            self._untaken = self.buffered

    def _take_head(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.begun = True
        self.parts += 1
        status, headers = b"", dict[str, str]()
        for name, value in fields:
            if b"\0" in value:
                raise InvalidResponse("the upstream's response has a NUL in a header")
            if name == b":status":
                # Two are no status.
                status = status + value
            elif name in READ_HEADERS:
                key, text = name.decode(), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        if len(status) != 3 or not status.isdigit():
            raise InvalidResponse("the upstream's response has no status")
        self.head = ResponseHead(int(status), headers)

    def _take_interim(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.begun = True
        self.parts += 1
        self._interim_responses += 1
        self._interim_bytes += sum(len(name) + len(value) + 4 for name, value in fields)
        if self._interim_responses > MAX_INTERIM_RESPONSES or self._interim_bytes > MAX_INTERIM_BYTES:
            raise InvalidResponse("the upstream sends interim responses (1xx) without end")

    # The proof that a request was not processed. Once the response has begun, nothing proves it.

    def _take_goaway(self, last: int) -> None:
        self.going_away = True
        if not self.begun and last < self.stream:
            raise NotSent("the upstream did not process the request")

    def _take_reset(self, event: h2.events.StreamReset) -> None:
        if self.complete:
            # It needs no more of the request.
            return
        if not event.remote_reset:
            raise InvalidResponse("the upstream's response is not HTTP/2 that can be read")
        if event.error_code == ErrorCodes.REFUSED_STREAM and not self.begun:
            raise NotSent("the upstream did not process the request")
        raise ConnectionLost("the upstream ended the exchange without a complete response")
