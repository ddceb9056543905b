"""Statuses of jobs that the gateway does not know: each is counted, and each word is logged once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.status import clean

if TYPE_CHECKING:
    from collections.abc import Callable

# How many words are remembered, and how much of each: they are foreign text.
MAX_WORDS = 100
MAX_WORD_BYTES = 100

_log = structlog.get_logger()


class UnknownWords:
    """Calls `count` for each job that was read with an unknown status, and logs the first 100 different words."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._words: set[str] = set()

    def unknown_status(self, word: str) -> None:
        """See `rest.WordObserver`."""
        self._count()
        told = clean(word, MAX_WORD_BYTES)
        if told not in self._words and len(self._words) < MAX_WORDS:
            self._words.add(told)
            _log.warning("upstream.status_unknown", word=told)
