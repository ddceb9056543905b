"""Split the bytes of an HTTP/2 connection into frames, and limit those that carry nothing of a response."""

from __future__ import annotations

from typing import NamedTuple

from gateway.upstream.response_parser import MAX_HEADERS_BYTES, InvalidResponse

FRAME_HEAD_BYTES = 9
GOAWAY_BYTES = FRAME_HEAD_BYTES + 8
MAX_FRAME_BYTES = 16 << 10
# Frames without a byte of a response: for each exchange, and in addition for the bytes of its bodies.
MAX_OTHER_FRAMES = 2_000
BYTES_PER_OTHER_FRAME = 256

DATA, HEADERS, PUSH_PROMISE, GOAWAY, CONTINUATION = 0, 1, 5, 7, 9


class Frame(NamedTuple):
    """A complete frame: its type, and its bytes with their head."""

    kind: int
    raw: bytes


def next_frame(data: bytes, at: int) -> Frame | None:
    """Return the frame that begins at `at`, or None if it is not complete. Raises `InvalidResponse` if it is long."""
    if len(data) - at < FRAME_HEAD_BYTES:
        return None
    size = int.from_bytes(data[at : at + 3])
    if size > MAX_FRAME_BYTES:
        raise InvalidResponse("the upstream sent an HTTP/2 frame of more than 16 KiB")
    end = at + FRAME_HEAD_BYTES + size
    return Frame(data[at + 3], data[at:end]) if end <= len(data) else None


def last_stream(goaway: Frame) -> int:
    """Return the last stream that the upstream processes, according to its GOAWAY.

    Raises:
        InvalidResponse: The frame is too short, or belongs to a stream. It must not count as a proof.
    """
    if len(goaway.raw) < GOAWAY_BYTES or any(goaway.raw[5:FRAME_HEAD_BYTES]):
        raise InvalidResponse("the upstream sent a GOAWAY that is not valid HTTP/2")
    return int.from_bytes(goaway.raw[FRAME_HEAD_BYTES : FRAME_HEAD_BYTES + 4]) & 0x7FFF_FFFF


class FrameLimits:
    """Counts the frames of one exchange, and of the idle time after it. h2 limits CONTINUATION only."""

    def __init__(self) -> None:
        self._header_bytes = 0
        self.begin()

    def begin(self) -> None:
        """Count from zero."""
        self._others = self._body_bytes = 0

    def allow_body(self, size: int) -> None:
        """Allow more other frames, because `size` bytes of a body were sent or received."""
        self._body_bytes += size

    def check(self, frame: Frame) -> None:
        """Count a frame. Raises `InvalidResponse` if it exceeds a limit."""
        if frame.kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            size = len(frame.raw) - FRAME_HEAD_BYTES
            self._header_bytes = size + (self._header_bytes if frame.kind == CONTINUATION else 0)
            if self._header_bytes > MAX_HEADERS_BYTES:
                raise InvalidResponse("the upstream's response has headers of more than 64 KiB")
        elif frame.kind != DATA:
            self.count_other()

    def count_other(self) -> None:
        """Count a frame that carries nothing of a response. Raises `InvalidResponse` if there are too many."""
        self._others += 1
        if self._others > MAX_OTHER_FRAMES + self._body_bytes // BYTES_PER_OTHER_FRAME:
            raise InvalidResponse("the upstream sends HTTP/2 frames without a response")
