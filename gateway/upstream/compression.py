"""Decompress responses, although the gateway does not ask for compression."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING

from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Half a MiB may inflate to 500 MiB, so it is inflated in pieces. This much takes a third of a millisecond.
MAX_PIECE_BYTES = 256 << 10
# Accepts the header of gzip and that of zlib.
EITHER_HEADER = zlib.MAX_WBITS | 32
# The input of one call of zlib, which copies its rest at the end of each gzip member, and members may be tiny.
SLICE_BYTES = 16 << 10


class NotDecodable(ValueError):
    """The body does not match its Content-Encoding, or the gateway does not support that encoding."""


def decoded(pieces: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Return the decoded body in pieces of at most `MAX_PIECE_BYTES`. Raises `NotDecodable`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return pieces
    if encoding not in ("gzip", "x-gzip", "deflate"):
        # With several encodings, each layer multiplies the size of a piece before it can be counted.
        raise NotDecodable("the upstream's response has a Content-Encoding that was not asked for")
    return _inflated(pieces)


async def _inflated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    inflater = _Inflater()
    clock = asyncio.get_running_loop().time
    share = EventLoopShare(clock())
    async for piece in pieces:
        for start in range(0, len(piece), SLICE_BYTES):
            parts = inflater.parts(piece[start : start + SLICE_BYTES])
            began = time.thread_time()
            while (part := next(parts, None)) is not None:
                share.spend(time.thread_time() - began, clock(), len(part))
                yield part
                # Give way to other tasks, because nothing else waits between the parts.
                await asyncio.sleep(share.rest(clock()) or 0)
                began = time.thread_time()
    if not inflater.complete:
        raise NotDecodable("the upstream's response ends before its compressed content does")


class _Inflater:
    """Inflates gzip and zlib. `complete` says whether the content has ended."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(EITHER_HEADER)
        # Complete without any input, because a response without a body may have the header.
        self.complete = True

    def parts(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of `data`, at least one part of at most `MAX_PIECE_BYTES`. Raises `NotDecodable`."""
        gathered: list[bytes] = []
        size = 0
        more = True
        while more:
            if self._inflate.eof:
                # A gzip file may have several members; each is a separate stream.
                self._inflate = zlib.decompressobj(EITHER_HEADER)
            try:
                part = self._inflate.decompress(data, MAX_PIECE_BYTES - size)
            except zlib.error as error:
                raise NotDecodable("the upstream's response does not match its Content-Encoding") from error
            gathered.append(part)
            size += len(part)
            full = size == MAX_PIECE_BYTES
            self.complete = self._inflate.eof
            data = self._inflate.unused_data if self.complete else self._inflate.unconsumed_tail
            more = bool(data) or (full and not self.complete)
            if full or not more:
                yield b"".join(gathered)
                gathered, size = [], 0
