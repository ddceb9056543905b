"""One call on an HTTP/2 connection: its response as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import time

from gateway.cli.doctor.ends import End, Kind

_PREFIX_BYTES = 5
_PAGE_BYTES = 1024


class Stream:
    """A call: its response headers, its messages and its end.

    Attributes:
        headers: The response headers, or None before they arrived.
        messages: The messages that arrived.
        page: The beginning of the body, if it is not gRPC's.
        end: The end, or None while it is open.

    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.headers: dict[str, str] | None = None
        self.messages: list[bytes] = []
        self.page = b""
        self.end: End | None = None
        # The bytes that wait for the peer's window, and whether the half-close follows them.
        self.outgoing = bytearray()
        self.half_closes = False
        self._incoming = bytearray()
        self._begun = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def seconds(self) -> float:
        """The time since the request."""
        return time.monotonic() - self._begun

    async def until_message(self, seconds: float, count: int = 1) -> bool:
        """Wait for `count` messages or the end; return True if there are as many messages."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self.messages) < count and self.end is None:
                    await self._change()
        return len(self.messages) >= count

    async def until_end(self, seconds: float) -> End | None:
        """Wait for the end; return None if it does not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.end is None:
                    await self._change()
        return self.end

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def receive_headers(self, fields: dict[str, str]) -> None:
        """Take the first headers."""
        self.headers = fields
        self._changed.set()

    def receive(self, data: bytes) -> None:
        """Take a part of the body."""
        if not (self.headers or {}).get("content-type", "").startswith("application/grpc"):
            self.page = (self.page + data)[:_PAGE_BYTES]
            return
        self._incoming += data
        while len(self._incoming) >= _PREFIX_BYTES:
            size = _PREFIX_BYTES + int.from_bytes(self._incoming[1:_PREFIX_BYTES])
            if len(self._incoming) < size:
                break
            self.messages.append(bytes(self._incoming[_PREFIX_BYTES:size]))
            del self._incoming[:size]
        self._changed.set()

    def finish(self, kind: Kind, fields: dict[str, str] | None = None, code: int = 0, debug: str = "") -> None:
        """End the stream, unless it has ended."""
        if self.end is None:
            self.end = End(kind, fields or {}, code, self.seconds, debug)
            self._changed.set()
