"""Undoes the compression of an answer that came compressed although nothing of the kind was asked for."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING

from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# A piece of half a MiB may hold 500 MiB, so it is taken out by and by: so much at once takes a third of a millisecond.
MAX_PIECE_BYTES = 256 << 10
# Of gzip and of zlib, whichever the stream begins with.
EITHER_HEADER = zlib.MAX_WBITS | 32
# So much is handed to zlib at once: at the end of each gzip member it copies what is left, and members may be tiny.
SLICE_BYTES = 16 << 10


class NotDecodable(ValueError):
    """The body is not what its Content-Encoding says, or is encoded in a way that the gateway does not read."""


def decoded(pieces: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The body without its Content-Encoding, in pieces of bounded size. Raises `NotDecodable`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return pieces
    if encoding not in ("gzip", "x-gzip", "deflate"):
        # Of several, each layer multiplies what one piece can become, before anyone can count it.
        raise NotDecodable("the upstream's answer has a Content-Encoding that was not asked for")
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
                # Inflated parts come without a wait between them.
                await asyncio.sleep(share.rest(clock()) or 0)
                began = time.thread_time()
    if not inflater.complete:
        raise NotDecodable("the upstream's answer ends before its compressed content does")


class _Inflater:
    """`complete`: whether the content has come to its end."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(EITHER_HEADER)
        # Nothing at all is complete: an answer without a body may bear the header.
        self.complete = True

    def parts(self, data: bytes) -> Iterator[bytes]:
        """What `data` holds, at least one part of at most `MAX_PIECE_BYTES`. Raises `NotDecodable`."""
        gathered: list[bytes] = []
        size = 0
        more = True
        while more:
            if self._inflate.eof:
                # A gzip file may have several members; each is a stream of its own.
                self._inflate = zlib.decompressobj(EITHER_HEADER)
            try:
                part = self._inflate.decompress(data, MAX_PIECE_BYTES - size)
            except zlib.error as error:
                raise NotDecodable("the upstream's answer is not compressed as it says") from error
            gathered.append(part)
            size += len(part)
            full = size == MAX_PIECE_BYTES
            self.complete = self._inflate.eof
            data = self._inflate.unused_data if self.complete else self._inflate.unconsumed_tail
            more = bool(data) or (full and not self.complete)
            if full or not more:
                yield b"".join(gathered)
                gathered, size = [], 0
