"""Foreign text in a gRPC status, in one line and cut to a size."""

from __future__ import annotations

import re

from gateway.text import cut

# Includes characters that change the direction of a text: with them, a log line could show something else than it says.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
# gRPC percent-encodes all but spaces and visible ASCII, and '%' itself.
_ESCAPED = re.compile(rb"[^ -$&-~]")


def clean(text: str, limit: int) -> str:
    """Return `text` in one line that takes at most `limit` bytes percent-encoded."""
    return cut(_CONTROLS.sub(" ", text), limit, _percent_encoded_size)


def clean_detail(text: str, limit: int) -> str:
    """Return `text` in one line that takes at most `limit` bytes in UTF-8, as the details of a status have it."""
    return cut(_CONTROLS.sub(" ", text), limit)


def _percent_encoded_size(text: str) -> int:
    raw = text.encode()
    return len(raw) + 2 * len(_ESCAPED.findall(raw))
