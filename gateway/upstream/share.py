"""The share of the event loop that reading one response may take."""

from __future__ import annotations

# A response may take a quarter of the loop's time, in addition to the expected time for its size.
SHARE = 0.25
SECONDS_PER_BYTE = 8e-9
# The part of a piece's cost that is not measured: one iteration of the loop, and one step of the reading task.
SECONDS_PER_PIECE = 30e-6
# After this much extra time, a response lets other tasks run, however long ago they ran last.
MAX_BURST_SECONDS = 0.003


class EventLoopShare:
    """Counts the time that one response takes, and tells when it must pause.

    Times are in seconds. `now` is the event loop's clock. Costs are CPU time of the loop's thread, so that the load of
    the machine does not count. Large pieces never pause. Many tiny ones do, such as chunks of one byte, because they
    take a hundred times as long per byte.
    """

    def __init__(self, now: float) -> None:
        self._ahead = 0.0
        self._burst = 0.0
        self._at = now

    def spend(self, cost: float, now: float, size: int) -> None:
        """Count a piece of `size` bytes, whose reading took `cost` seconds and ended at `now`."""
        beyond = cost + SECONDS_PER_PIECE - size * SECONDS_PER_BYTE
        self._burst = max(0.0, self._burst + beyond)
        self._ahead = max(0.0, self._ahead + beyond - (now - self._at) * SHARE)
        self._at = now

    def rest(self, now: float) -> float | None:
        """Return how long to pause (0: one iteration of the loop), or None if the response may continue."""
        if self._burst <= MAX_BURST_SECONDS:
            return None
        self._burst = 0.0
        self._ahead = max(0.0, self._ahead - (now - self._at) * SHARE)
        self._at = now
        return self._ahead / SHARE
