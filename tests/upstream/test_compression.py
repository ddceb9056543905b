"""Compressed responses are decoded in pieces of bounded size, or rejected."""

import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.compression import MAX_PIECE_BYTES, NotDecodable, decoded

CONTENT = bytes(range(256)) * 5_000


async def _in_pieces(raw: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


async def _read(raw: bytes, encoding: str, size: int = 16 << 10) -> list[bytes]:
    return [piece async for piece in decoded(_in_pieces(raw, size), encoding)]


@pytest.mark.parametrize("size", [1, 1_000, 1 << 20])
@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (gzip.compress(CONTENT), "gzip"),
        (gzip.compress(CONTENT), " X-GZIP "),
        (zlib.compress(CONTENT), "deflate"),
        (gzip.compress(CONTENT[:7]) + gzip.compress(b"") + gzip.compress(CONTENT[7:]), "gzip"),
        (CONTENT, "identity"),
        (CONTENT, ""),
    ],
    ids=["gzip", "x-gzip", "deflate", "three members", "identity", "none"],
)
async def test_the_content_comes_out(raw: bytes, encoding: str, size: int) -> None:
    assert b"".join(await _read(raw, encoding, size)) == CONTENT


async def test_a_piece_that_inflates_a_lot_is_split() -> None:
    raw = gzip.compress(bytes(64 << 20))
    assert len(raw) < 100_000
    pieces = await _read(raw, "gzip", len(raw))
    assert max(map(len, pieces)) == MAX_PIECE_BYTES
    assert sum(map(len, pieces)) == 64 << 20


@pytest.mark.parametrize("length", [MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1])
async def test_content_around_the_size_of_a_piece_is_complete(length: int) -> None:
    assert b"".join(await _read(gzip.compress(bytes(length)), "gzip")) == bytes(length)


async def test_a_response_without_a_body_may_have_an_encoding() -> None:
    assert await _read(b"", "gzip") == []


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"{}", "gzip"),
        (gzip.compress(CONTENT)[:-9], "gzip"),
        (gzip.compress(CONTENT)[:-1] + b"\1", "gzip"),
        (gzip.compress(CONTENT) + b"more", "gzip"),
        (gzip.compress(gzip.compress(CONTENT)), "gzip, gzip"),
        (CONTENT, "br"),
        (CONTENT, "zstd"),
    ],
    ids=["plain", "cut off", "wrong length", "trailing text", "twice", "br", "zstd"],
)
async def test_a_body_unlike_its_encoding_is_rejected(raw: bytes, encoding: str) -> None:
    with pytest.raises(NotDecodable):
        await _read(raw, encoding)


@given(st.binary(), st.integers(1, 20))
async def test_arbitrary_bytes_come_out_or_are_refused(raw: bytes, size: int) -> None:
    with contextlib.suppress(NotDecodable):
        await _read(raw, "gzip", size)
