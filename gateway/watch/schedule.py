"""The times between polls."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

# The interval is this times the square root of the loop's age, both in seconds: docs/internals/watching.md.
GROWTH = 0.62
# Growing intervals vary at random by up to this part, so that loops that start together drift apart.
JITTER = 0.2
BACKOFF_DOUBLINGS = 6
# The time from a refusal to the poll that confirms it.
CONFIRM_SECONDS = 1.0


@dataclass(frozen=True)
class PollSchedule:
    """Intervals between polls, in seconds, from `shortest` to `longest`."""

    shortest: float
    longest: float
    random: random.Random = field(default_factory=random.Random)

    def interval(self, age: float) -> float:
        """Return the time from a successful poll to the next one, if the loop is `age` seconds old."""
        steady = max(self.shortest, GROWTH * math.sqrt(age))
        if steady >= self.longest:
            # Loops have drifted apart by now, and shorter intervals would cost polls.
            return self.longest
        interval = steady * self.random.uniform(1 - JITTER, 1 + JITTER)
        return min(self.longest, max(self.shortest, interval))

    def backoff(self, failures: int) -> float:
        """Return the time to the next poll after `failures` in a row: full jitter below a doubling bound."""
        bound = self.shortest * 2 ** min(failures, BACKOFF_DOUBLINGS)
        return self.random.uniform(0, min(self.longest, bound))

    def confirmation(self) -> float:
        """Return the time from a refusal to the poll that confirms it: about a second."""
        return CONFIRM_SECONDS * self.random.uniform(1 - JITTER, 1 + JITTER)

    def jitter(self) -> float:
        """Return a small random time, to be added to a wait that the upstream asked for."""
        return self.random.uniform(0, self.shortest)

    def herd_jitter(self) -> float:
        """Return a random time that separates loops that were held back together."""
        return self.random.uniform(0, self.longest / 2)
