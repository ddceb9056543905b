"""Truncation of text, with one mark everywhere."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CUT_MARK = "...[cut]"
"""The end of a text that was cut; docs/reference/errors.md promises it."""


def utf8_size(text: str) -> int:
    """Return the bytes that `text` takes in UTF-8."""
    return len(text.encode())


def cut(text: str, limit: int, size: Callable[[str], int] = utf8_size) -> str:
    """Return `text` if its size is at most `limit`, otherwise its beginning with `CUT_MARK`, within `limit`.

    Args:
        text: Has no lone surrogates.
        limit: At least the size of the mark.
        size: Measures a text. It is at least its number of characters, and grows with each.
    """
    if len(text) <= limit and size(text) <= limit:
        return text
    room = limit - len(CUT_MARK)
    end = bisect_right(range(min(len(text), room) + 1), room, key=lambda length: size(text[:length])) - 1
    return text[:end] + CUT_MARK
