"""The share of the event loop that reading one answer may take."""

from __future__ import annotations

# An answer may take a quarter of the loop's time, beside what its size alone explains.
SHARE = 0.25
SECONDS_PER_BYTE = 8e-9
# What a piece costs outside of what is measured: a turn of the loop, and one of the task that reads.
SECONDS_PER_PIECE = 30e-6
# An answer leaves the loop to others each time that it has taken this much, however long ago others had it last.
MOST_AT_ONCE_SECONDS = 0.003


class EventLoopShare:
    """Counts the time that one answer takes, and says how long it must rest.

    Moments are of the event loop's clock, in seconds. Costs are CPU time of its thread, because a machine that is busy
    otherwise is no fault of the answer's. Large pieces never rest. Many tiny ones do, such as chunks of one
    byte, which take a hundred times as long per byte.
    """

    def __init__(self, now: float) -> None:
        self._ahead = 0.0
        self._at_once = 0.0
        self._at = now

    def spend(self, cost: float, now: float, size: int) -> None:
        """Count a piece of `size` bytes, which took `cost` seconds until `now`."""
        beyond = cost + SECONDS_PER_PIECE - size * SECONDS_PER_BYTE
        self._at_once = max(0.0, self._at_once + beyond)
        self._ahead = max(0.0, self._ahead + beyond - (now - self._at) * SHARE)
        self._at = now

    def rest(self, now: float) -> float | None:
        """How long to leave the loop to others now (0: for a turn); None if the answer may go on."""
        if self._at_once <= MOST_AT_ONCE_SECONDS:
            return None
        self._at_once = 0.0
        self._ahead = max(0.0, self._ahead - (now - self._at) * SHARE)
        self._at = now
        return self._ahead / SHARE
