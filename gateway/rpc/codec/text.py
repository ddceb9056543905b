"""Text of others, cleaned and cut to a size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


# What a status message may take, percent-encoded: see `MAX_DETAILS_BYTES`.
MAX_STATUS_MESSAGE_BYTES = 1_000

STATUS_CUT_MARK = "...[cut]"

# With those that turn the direction of a text, in which a line of a log could say something else than it does.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def clean(text: str, limit: int = MAX_STATUS_MESSAGE_BYTES) -> str:
    """`text` in one line that takes at most `limit` bytes percent-encoded, with a mark where it was cut."""
    # gRPC percent-encodes all but spaces and visible ASCII, and '%' itself.
    return _cut(text, limit, lambda each: 1 if " " <= each <= "~" and each != "%" else 3 * len(each.encode()))


def clean_detail(text: str, limit: int) -> str:
    """As `clean`, for what travels in the details only, and so as UTF-8."""
    return _cut(text, limit, lambda each: len(each.encode()))


def _cut(text: str, limit: int, cost: Callable[[str], int]) -> str:
    # Each character takes a byte at least, so nothing beyond the limit needs a look.
    text = _CONTROLS.sub(" ", text)[: limit + 1]
    used = room = 0
    for end, character in enumerate(text):
        if used <= limit - len(STATUS_CUT_MARK):
            room = end
        used += cost(character)
        if used > limit:
            return text[:room] + STATUS_CUT_MARK
    return text


# In a field of a message, which is UTF-8.
FIELD_CUT_MARK = " …[cut]"


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, with a mark where something was cut off."""
    if len(text) * 4 <= limit or len(text.encode()) <= limit:
        return text
    return text.encode()[: limit - len(FIELD_CUT_MARK.encode())].decode(errors="ignore") + FIELD_CUT_MARK
