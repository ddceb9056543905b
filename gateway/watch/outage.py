"""The outage of one loop: failures in a row, and when they end the watch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway.errors import UpstreamOutage

if TYPE_CHECKING:
    from gateway.errors import UpstreamError

# Throttling may defer the end of an outage to this multiple of the limit.
MAX_OUTAGE_FACTOR = 2


class Outage:
    """Failed polls since the last success, which end the watch after `limit` seconds.

    All moments are in seconds of the clock. `one_more_poll_allowed` means that the upstream asked for a wait beyond the
    limit: the loop then polls once more, and a failure of that poll ends the watch.
    """

    __slots__ = ("_since", "failures", "last_failure", "limit", "one_more_poll_allowed")

    def __init__(self, limit: float) -> None:
        self.failures = 0
        self.last_failure: UpstreamError | None = None
        self.one_more_poll_allowed = False
        self.limit = limit
        self._since: float | None = None

    @property
    def ends_at(self) -> float:
        """The moment at which the outage ends the watch; infinity if there is none, or one more poll comes first."""
        return math.inf if self._since is None or self.one_more_poll_allowed else self._since + self.limit

    @property
    def max_deferral(self) -> float:
        """The moment after which no delay by other loops counts; infinity if there is no outage."""
        return math.inf if self._since is None else self._since + MAX_OUTAGE_FACTOR * self.limit

    @property
    def cause(self) -> UpstreamError | None:
        """The last failure of the outage, or None if there is no outage for the present watchers."""
        return None if self._since is None else self.last_failure

    def fail(self, error: UpstreamError, since: float) -> None:
        """Record a failed poll. The outage starts at `since` if there is none yet."""
        self.failures += 1
        # The traceback holds the loop.
        self.last_failure = error.with_traceback(None)
        self.one_more_poll_allowed = False
        if self._since is None:
            self._since = since

    def succeed(self) -> None:
        """Record a successful poll, which ends the outage."""
        self.failures = 0
        self.last_failure = None
        self.restart()

    def restart(self) -> None:
        """Measure from the next failure, because no present watcher has seen the earlier ones."""
        self._since = None
        self.one_more_poll_allowed = False

    def exclude(self, seconds: float) -> None:
        """Do not count `seconds` that the loop has just waited for the gateway itself."""
        if self._since is not None:
            self._since += seconds

    def error(self, last: UpstreamError, now: float) -> UpstreamOutage:
        """Return the error that ends the watch, with the failure `last` as its reason."""
        return UpstreamOutage(last, 0.0 if self._since is None else now - self._since)
