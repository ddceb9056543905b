"""Resume tokens: any text is read or rejected; written tokens are readable; a damaged one is never another point."""

from __future__ import annotations

import base64

from gateway.rpc.codec.resume_token import MAX_LENGTH, ResumePoint, read_token, write_token


def check(data: bytes) -> None:
    """Use the input as a token, then as the parts of one, and then as damage to it."""
    _read(data.decode("utf-8", "replace"))
    _read(data.decode("latin-1"))
    _read(base64.urlsafe_b64encode(data).decode().rstrip("="))
    parts = data.ljust(66, b"\0")
    # No result has 4 GiB, and with a free upper half the offset could be the checksum of everything before it.
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
