"""The lines of the log about the outages of the upstream."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock

_log = structlog.get_logger()


@dataclass(slots=True)
class Outage:
    """An outage of one kind of requests. Its times are those of the monotonic clock.

    Attributes:
        since: When the first failed request began.
        failures: The failed requests.
        last_failure: When the last of them failed.
        reason: The reason of the last failure.
        cause: The cause of the last failure.
        recovering_since: The first success since the last failure that counts; None while requests fail.
        logged: The failures in the last line; 0 before the first.
    """

    since: float
    failures: int
    last_failure: float
    reason: str
    cause: str
    recovering_since: float | None = None
    logged: int = 0


class OutageLog:
    """Writes the lines about one kind of requests.

    Args:
        requests: `reads` or `submissions`.
        clock: Measures everything.
        failing_loops: Returns the number of poll loops whose last poll failed; None if these requests are no polls.
    """

    def __init__(self, requests: str, clock: Clock, failing_loops: Callable[[], int] | None) -> None:
        self._requests = requests
        self._clock = clock
        self._failing_loops = failing_loops

    def failing(self, outage: Outage) -> None:
        """Write that an outage has begun, or lasts, unless the last line has said the same."""
        if outage.failures == outage.logged:
            return
        outage.logged = outage.failures
        loops = {} if self._failing_loops is None else {"loops": self._failing_loops()}
        _log.warning("upstream.failing", **self._fields(outage, self._clock.monotonic()), **loops)

    def recovered(self, outage: Outage, until: float) -> None:
        """Write that an outage has ended."""
        _log.info("upstream.recovered", **self._fields(outage, until))

    def idle(self, outage: Outage) -> None:
        """Write that nobody knows whether an outage lasts."""
        _log.info("upstream.idle", **self._fields(outage, outage.last_failure))

    def _fields(self, outage: Outage, until: float) -> dict[str, object]:
        since = datetime.fromtimestamp(epoch(self._clock, outage.since), UTC).isoformat(timespec="seconds")
        return {
            "requests": self._requests,
            "reason": outage.reason,
            "cause": outage.cause,
            "since": since.replace("+00:00", "Z"),
            "seconds": round(until - outage.since, 1),
            "failures": outage.failures,
        }


def epoch(clock: Clock, moment: float) -> float:
    """Return a moment of the monotonic clock in seconds since the epoch."""
    return clock.time() - (clock.monotonic() - moment)
