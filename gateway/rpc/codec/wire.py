"""Parts of protobuf's wire format, to assemble messages from encoded parts."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor

FIXED64, LENGTH_DELIMITED = 1, 2
# Copying this much takes about a millisecond, during which no other thread can run.
SLICE_BYTES = 4 << 20


def tag(message: Descriptor, field: str, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """Return the bytes before the value of a field; messages, strings and bytes are length-delimited."""
    return varint(message.fields_by_name[field].number << 3 | wire_type)


def varint(number: int) -> bytes:
    """Return the encoding of a number of 0 or more."""
    if number < 0x80:
        return b"%c" % number
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def join(pieces: Sequence[bytes | memoryview]) -> bytes:
    """Join pieces, copied once and in slices, so that other threads run in between."""
    out = io.BytesIO()
    for piece in pieces:
        for start in range(0, len(piece), SLICE_BYTES):
            out.write(piece[start : start + SLICE_BYTES])
    # Without another copy.
    return out.getvalue()
