"""When to poll next."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

# The interval grows with the square root of the watch's age (both in seconds): for jobs whose lengths are spread evenly
# over the orders of magnitude, no other growth finds their ends as soon with as few polls.
GROWTH = 0.62
# While they grow, intervals differ at random by up to this part, so that loops which began together drift apart.
JITTER = 0.2
BACKOFF_DOUBLINGS = 6
# How long after a refusal the read comes that is to confirm it.
CONFIRM_SECONDS = 1.0


@dataclass(frozen=True)
class PollSchedule:
    """Intervals between polls, in seconds, from `shortest` to `longest`."""

    shortest: float
    longest: float
    random: random.Random = field(default_factory=random.Random)

    def interval(self, age: float) -> float:
        """The time from a good poll to the next, of a loop that is `age` seconds old."""
        steady = max(self.shortest, GROWTH * math.sqrt(age))
        if steady >= self.longest:
            # By now they have drifted apart, and a random part of it would only cost polls.
            return self.longest
        interval = steady * self.random.uniform(1 - JITTER, 1 + JITTER)
        return min(self.longest, max(self.shortest, interval))

    def backoff(self, failures: int) -> float:
        """The time from a failed poll to the next after `failures` in a row: full jitter below a doubling bound."""
        bound = self.shortest * 2 ** min(failures, BACKOFF_DOUBLINGS)
        return self.random.uniform(0, min(self.longest, bound))

    def confirmation(self) -> float:
        """Return the time from a refusal to the poll that is to confirm it: about a second."""
        return CONFIRM_SECONDS * self.random.uniform(1 - JITTER, 1 + JITTER)

    def spread(self) -> float:
        """A small random time after the moment that the upstream named."""
        return self.random.uniform(0, self.shortest)

    def crowd_spread(self) -> float:
        """A random time that keeps loops which were held back together from coming back together."""
        return self.random.uniform(0, self.longest / 2)
