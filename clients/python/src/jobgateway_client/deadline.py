"""A time limit over several calls."""

from __future__ import annotations

import time


class Deadline:
    """A time limit in seconds from now; None is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, or None if there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def within(self, limit: float | None) -> float | None:
        """Return the shorter of `limit` and the seconds that are left; None is no limit."""
        left = self.left()
        return limit if left is None else left if limit is None else min(limit, left)
