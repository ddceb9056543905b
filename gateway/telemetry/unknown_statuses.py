"""Job statuses that the gateway does not know: each is counted, and each word is logged once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WORDS = 100
# A status may hold anything, such as an echoed secret. One word of letters is safe, and enough to understand it.
WORD = re.compile(r"[A-Za-z][A-Za-z_ -]{0,39}")
NOT_A_WORD = "(not a word)"

_log = structlog.get_logger()


class UnknownStatuses:
    """Calls `count` for each job with an unknown status, and logs each of the first 100 words."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._words: set[str] = set()

    def unknown_status(self, word: str) -> None:
        """See `upstream.client.UnknownStatusObserver`."""
        self._count()
        shown = word.lower() if WORD.fullmatch(word) else NOT_A_WORD
        if shown not in self._words and len(self._words) < MAX_WORDS:
            self._words.add(shown)
            _log.warning("upstream.status_unknown", word=shown)
