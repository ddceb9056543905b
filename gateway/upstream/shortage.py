"""Distinguish a shortage of this machine from a failure of the upstream."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# The least time between two log lines, because a shortage affects every request.
LOG_SECONDS = 10.0

_log = structlog.get_logger()


def shortage_in(error: BaseException) -> str | None:
    """Return the resource that the process ran out of, if an error or one of its causes says so."""
    cause: BaseException | None = error
    while cause is not None:
        if (name := _name(cause)) is not None:
            return name
        cause = cause.__cause__
    return None


def _name(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "ENOMEM"
    if isinstance(error, socket.gaierror):
        return "ENOMEM" if error.errno == socket.EAI_MEMORY else None
    if isinstance(error, OSError):
        return errno.errorcode[error.errno] if error.errno in SHORTAGES else None
    # Python has no special exception for it.
    return "threads" if isinstance(error, RuntimeError) and "can't start new thread" in str(error) else None


class ShortageLog:
    """Logs shortages at level error, at most once in ten seconds. `now` returns seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._next: float | None = None
        self._unlogged = 0

    def write(self, name: str) -> None:
        """Log that a request failed because of a shortage of `name`."""
        now = self._now()
        if self._next is not None and now < self._next:
            self._unlogged += 1
            return
        _log.error("gateway.overloaded", shortage=name, unlogged=self._unlogged)
        self._next = now + LOG_SECONDS
        self._unlogged = 0
