"""Resume tokens: a text is read or refused; what is written is read; one that was damaged is never another point."""

from __future__ import annotations

import base64

from gateway.rpc.codec.resume_token import MAX_LENGTH, ResumePoint, read_token, write_token


def check(data: bytes) -> None:
    """Takes the input as a token, then as the parts of one, and then as the damage to it."""
    _read(data.decode("utf-8", "replace"))
    _read(data.decode("latin-1"))
    _read(base64.urlsafe_b64encode(data).decode().rstrip("="))
    parts = data.ljust(66, b"\0")
    # No result has 4 GiB. Who chooses the upper half of the offset can make it the checksum of all before it.
    uid, offset = int.from_bytes(parts[:8], "big"), int.from_bytes(parts[12:16], "big")
    point = ResumePoint(uid, parts[16:32], offset, parts[32:64]) if parts[65] % 2 else ResumePoint(uid, parts[16:32])
    token = write_token(point)
    assert len(token) <= MAX_LENGTH
    assert token.isascii()
    assert read_token(token) == point
    place = int.from_bytes(parts[64:66], "big") % len(token)
    for damaged in (token[:place] + chr(data[-1] if data else 0) + token[place + 1 :], token[:place]):
        assert _read(damaged) in (point, None)


def _read(token: str) -> ResumePoint | None:
    try:
        point = read_token(token)
    except ValueError as error:
        assert str(error).isprintable()
        return None
    if point is not None:
        assert read_token(write_token(point)) == point
    return point
