"""The lines of one watch in the log: that it has started, and how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from gateway.errors import GatewayError
from gateway.rpc.status import Fault, mapping_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.clock import Clock
    from gateway.rpc.call import Call
    from gateway.rpc.codec.events import JobState
    from gateway.watch import Watcher

# Ends of a watch that are neither a status of its job nor a reason.
UNWATCHED, STREAM_ENDED = "UNWATCHED", "STREAM_ENDED"

# Thousands of lines in one step would block the event loop.
LINES_AT_A_TIME = 100

_log = structlog.get_logger()


class WatchRecord:
    """Reports one watch to the log.

    Its end is a status of the job, a reason, `UNWATCHED`, or `STREAM_ENDED`.

    Args:
        uid: The job.
        call: The call of the watch.
        clock: Measures the watch.

    Attributes:
        events: The number of events of the job that were made for this watch.
    """

    __slots__ = ("_began", "_call", "_clock", "_uid", "events")

    def __init__(self, uid: int, call: Call, clock: Clock) -> None:
        self.events = 0
        self._uid = uid
        self._call = call
        self._clock = clock
        self._began = clock.monotonic()
        _log.debug("watch.started", uid=uid, client=call.credential.fingerprint, **call.ids)

    def end(self, end: str) -> None:
        """Report the end of a watch on a stream that goes on."""
        _log.info("watch.ended", **self._line(end))

    def fail(self, error: GatewayError) -> None:
        """Report that a watch has failed, on a stream that goes on."""
        mapping = mapping_for(error)
        write = _log.info if mapping.fault is Fault.CLIENT else _log.warning
        write("watch.ended", **self._line(mapping.reason))

    def end_with_call(self, end: str) -> None:
        """Report the end of a watch that ends with its call, which has a line of its own at level info."""
        _log.debug("watch.ended", **self._line(end))

    def _line(self, end: str) -> dict[str, object]:
        seconds = round(self._clock.monotonic() - self._began, 6)
        client = self._call.credential.fingerprint
        return {
            "uid": self._uid,
            "client": client,
            "seconds": seconds,
            "events": self.events,
            "end": end,
            **self._call.ids,
        }


@contextmanager
def recorded(watcher: Watcher[JobState], uid: int, call: Call, clock: Clock) -> Iterator[Watcher[JobState]]:
    """Report the only watch of a call, which lasts as long as the context."""
    record = WatchRecord(uid, call, clock)
    end = STREAM_ENDED
    try:
        yield watcher
        end = "" if watcher.latest is None else watcher.latest.job.status.name
    except GatewayError as error:
        end = mapping_for(error).reason
        raise
    finally:
        record.events = call.events
        record.end_with_call(end)


def log_stream_end(records: Iterable[WatchRecord]) -> None:
    """Report all watches that end with their stream."""
    # Otherwise 10,000 lines that no one reads would take milliseconds.
    if _log.is_enabled_for(logging.DEBUG):
        _log_some(deque(records))


def _log_some(records: deque[WatchRecord]) -> None:
    for _ in range(min(LINES_AT_A_TIME, len(records))):
        records.popleft().end_with_call(STREAM_ENDED)
    if records:
        asyncio.get_running_loop().call_soon(_log_some, records)


def log_rejected(uid: int, error: GatewayError, call: Call) -> None:
    """Report a request for a watch that has not started. A client can cause any number of them."""
    client = call.credential.fingerprint
    _log.debug("watch.rejected", uid=uid, client=client, reason=mapping_for(error).reason, **call.ids)
