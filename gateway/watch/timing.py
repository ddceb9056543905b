"""The deadlines of one loop: when it polls next, how long a poll may take, and when an outage ends the watch.

Several limits may apply at the same time. This table says which one wins:

- No outage: the loop polls when the next poll is due. If the credential is throttled, it polls after that.
- Outage: its end is one limit after the beginning of the first failed poll. If the next poll is due later than that,
  the watch ends. If both are due at the same time, the loop polls.
- The upstream asked for a wait beyond the end of the outage: one more poll is allowed, at that end, and its failure
  ends the watch.
- Another loop of the credential was throttled: the poll waits for that, too, but at most until two limits after the
  beginning of the outage. If that is beyond the end of the outage, one more poll is allowed.
- During a poll: a third of the limit, or the end of the outage if that is earlier or the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.watch.outage import Outage
    from gateway.watch.schedule import PollSchedule
    from gateway.watch.throttle import ThrottleGate

# One hanging poll must not use up the outage limit.
LONGEST_POLL_FRACTION = 1 / 3


class PollLimit(msgspec.Struct, frozen=True):
    """A poll ends at `moment`. `ends_outage` says that this is the end of the outage, too."""

    moment: float
    ends_outage: bool


class PollTiming:
    """The deadlines of one loop. All moments are in seconds of the clock.

    Attributes:
        due: The time of the next poll.
    """

    __slots__ = ("_credential", "_outage", "_schedule", "_throttle", "due")

    def __init__(
        self, due: float, outage: Outage, throttle: ThrottleGate, schedule: PollSchedule, credential: bytes
    ) -> None:
        self.due = due
        self._outage = outage
        self._throttle = throttle
        self._schedule = schedule
        self._credential = credential

    def next_deadline(self, now: float) -> float:
        """Return when the loop polls if nothing changes. A moment that has passed means now.

        Raises:
            UpstreamOutage: The outage has lasted for too long, which ends the watch.
        """
        outage = self._outage
        # First, because a loop that is throttled after the end of its outage does not get one more poll.
        if outage.cause is not None and outage.ends_at <= now and outage.ends_at < self.due:
            raise outage.error(outage.cause, now)
        if self.is_throttled(self.due):
            self._defer()
        return min(self.due, outage.ends_at)

    def poll_limit(self, started: float) -> PollLimit:
        """Return the limit of a poll that starts now."""
        longest = started + self._outage.limit * LONGEST_POLL_FRACTION
        ends_at = self._outage.ends_at
        return PollLimit(min(longest, ends_at), ends_outage=ends_at <= longest)

    def is_throttled(self, moment: float) -> bool:
        """Return whether the throttling of the credential forbids a poll at `moment`."""
        return moment < self._throttle.closed_until(self._credential) and moment < self._outage.max_deferral

    def _defer(self) -> None:
        opens = self._throttle.closed_until(self._credential) + self._schedule.herd_jitter()
        self.due = min(opens, self._outage.max_deferral)
        if self.due > self._outage.ends_at:
            self._outage.one_more_poll_allowed = True
