"""Statuses of jobs that the gateway does not know: each is counted, and each word is logged once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WORDS = 100
# Foreign text may hold anything, an echoed secret too; a word of letters alone tells what the upstream means.
WORD = re.compile(r"[A-Za-z][A-Za-z_ -]{0,39}")
NOT_A_WORD = "(not a word)"

_log = structlog.get_logger()


class UnknownStatuses:
    """Calls `count` for each job that was read with an unknown status, and logs the first 100 different words."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._words: set[str] = set()

    def unknown_status(self, word: str) -> None:
        """See `upstream.client.UnknownStatusObserver`."""
        self._count()
        told = word.lower() if WORD.fullmatch(word) else NOT_A_WORD
        if told not in self._words and len(self._words) < MAX_WORDS:
            self._words.add(told)
            _log.warning("upstream.status_unknown", word=told)
