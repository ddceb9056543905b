"""Resume tokens: where a client's watch stands, whole in a short text, so that any replica can take it up.

Version 1, in base64url without padding: version (1 byte), uid (8), digest of the last state seen (16, zeros where
there was none), and, in a chunked result, the offset of what comes next (8) and the content's SHA-256
(32); then a CRC-32 of all before it (4), so that a damaged text is told from a token.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass

MAX_LENGTH = 512
VERSION = 1

_HEAD = struct.Struct(">BQ16s")
_CHUNK = struct.Struct(">Q32s")
_CRC = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a watch of job `uid` stands: after the state with `digest` (16 bytes).

    In a chunked result: `offset` is where the next chunk begins, `content_sha256` (32 bytes) whose it is.
    """

    uid: int
    digest: bytes
    offset: int = 0
    content_sha256: bytes | None = None


def write_token(point: ResumePoint) -> str:
    """The token for a point."""
    raw = _HEAD.pack(VERSION, point.uid, point.digest)
    if point.content_sha256 is not None:
        raw += _CHUNK.pack(point.offset, point.content_sha256)
    return base64.urlsafe_b64encode(raw + _CRC.pack(zlib.crc32(raw))).rstrip(b"=").decode()


def read_token(token: str) -> ResumePoint | None:
    """The point of a token, or None where it is of a version that this process does not know.

    Raises `ValueError` where the text is no token.
    """
    if len(token) > MAX_LENGTH:
        raise ValueError("a resume token has at most 512 characters")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a resume token") from error
    body, check = raw[: -_CRC.size], raw[-_CRC.size :]
    if len(body) < 1 or check != _CRC.pack(zlib.crc32(body)):
        raise ValueError("not a resume token")
    if body[0] != VERSION:
        return None
    if len(body) not in (_HEAD.size, _HEAD.size + _CHUNK.size):
        raise ValueError("not a resume token")
    _, uid, digest = _HEAD.unpack_from(body)
    if len(body) == _HEAD.size:
        return ResumePoint(uid, digest)
    offset, content_sha256 = _CHUNK.unpack_from(body, _HEAD.size)
    return ResumePoint(uid, digest, offset, content_sha256)
