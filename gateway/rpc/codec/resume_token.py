"""Resume tokens: the position of a watch in a short text, from which any replica can continue it.

Version 1, in base64url without padding: version (1 byte), uid (8), digest of the last state seen (16, zeros if there
was none), and, within a chunked result, the offset of the next chunk (8) and the content's SHA-256 (32); then a CRC-32
of all of it (4), which detects damaged tokens.
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
    """The position of a watch.

    Attributes:
        uid: The job.
        digest: Identifies the last state seen (16 bytes).
        offset: The start of the next chunk, within a chunked result.
        content_sha256: The hash of that result (32 bytes), None outside of one.
    """

    uid: int
    digest: bytes
    offset: int = 0
    content_sha256: bytes | None = None


def write_token(point: ResumePoint) -> str:
    """Return the token of a point."""
    raw = _HEAD.pack(VERSION, point.uid, point.digest)
    if point.content_sha256 is not None:
        raw += _CHUNK.pack(point.offset, point.content_sha256)
    return base64.urlsafe_b64encode(raw + _CRC.pack(zlib.crc32(raw))).rstrip(b"=").decode()


def read_token(token: str) -> ResumePoint | None:
    """Return the point of a token, or None if it has a version that this process does not know.

    Raises:
        ValueError: The text is not a token.
    """
    if len(token) > MAX_LENGTH:
        raise ValueError(f"must have at most {MAX_LENGTH} characters (got {len(token)})")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not a resume token") from error
    body, check = raw[: -_CRC.size], raw[-_CRC.size :]
    if len(body) < 1 or check != _CRC.pack(zlib.crc32(body)):
        raise ValueError("is not a resume token")
    if body[0] != VERSION:
        return None
    if len(body) not in (_HEAD.size, _HEAD.size + _CHUNK.size):
        raise ValueError("is not a resume token")
    _, uid, digest = _HEAD.unpack_from(body)
    if len(body) == _HEAD.size:
        return ResumePoint(uid, digest)
    offset, content_sha256 = _CHUNK.unpack_from(body, _HEAD.size)
    return ResumePoint(uid, digest, offset, content_sha256)
