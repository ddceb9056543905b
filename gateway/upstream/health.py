"""The health of the upstream, as this process sees it: failing or not, since when, and why.

Reads (GET and DELETE) and submissions (POST) are judged separately, because one can fail while the other works.

An outage begins if requests fail for 2 seconds and none succeeds. Two conditions prevent false alarms:

- At least two requests have failed.
- One of them was for the job (or, for submissions, the entity) of the last success. Otherwise, a single broken job
  beside a good one would be an outage. A success of more than a minute ago says nothing, so this condition is dropped.

After 10 seconds of failures, neither condition applies. Failures that are 5 minutes apart do not count together.

An outage ends with the first success. But if another outage ended less than a minute ago, this one only recovers: it
stays open until the next success after that minute, or until its next line is due. If requests fail again, it goes on.
So an upstream that comes and goes causes at most three lines a minute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gateway.clock import RearmableTimer
from gateway.errors import (
    GatewayOverloaded,
    UpstreamError,
    UpstreamResponseTooLarge,
    UpstreamStatusError,
    UpstreamTimeout,
)
from gateway.upstream.outage_log import Outage, OutageLog, epoch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from gateway.clock import Clock

    # The job of a read, or the entity of a submission.
    Subject = Hashable

T = TypeVar("T")

CONFIRM_SECONDS = 2.0
# Longer than the longest interval between two polls by default, so that a healthy watch has had its turn.
CONFIRM_ANY_SECONDS = 10.0
# The success of a subject that long ago does not show that others work.
OLD_SUCCESS_SECONDS = 60.0
# The time between two lines of one outage, and the shortest time between the ends of two.
LINE_SECONDS = 60.0
# After this long without requests, nobody knows whether the upstream still fails.
IDLE_SECONDS = 300.0

# Statuses of proxies that gave a request up.
GIVEN_UP = frozenset({408, 444, 460, 499})
# Statuses of a page that may concern only one credential or one request.
PAGES_FOR_ONE = frozenset({401, 413, 414, 429, 431})


class RequestHealthSnapshot(msgspec.Struct, frozen=True):
    """The health of one kind of requests.

    Attributes:
        requests: `reads` or `submissions`.
        failing_since: Since when they fail, in seconds since the epoch; None without outage.
        recovering_since: Since when they succeed again, if the outage is still open because another one ended less
            than a minute ago; otherwise None.
        reason: The reason of the last failure of this outage, as in docs/reference/errors.md; empty without outage.
        cause: Its cause, such as "Connection refused"; empty without outage.
        failures: The failed requests of this outage.
        last_success: When the upstream last responded as it should, in seconds since the epoch; None if never.
    """

    requests: str
    failing_since: float | None
    recovering_since: float | None
    reason: str
    cause: str
    failures: int
    last_success: float | None


class Verdict(Enum):
    """The meaning of an outcome: the upstream works, or it fails, or the outcome says nothing about it."""

    WORKS = auto()
    FAILS = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class _Run:
    """Failures without a success between them.

    Attributes:
        since: When the first of them began, or the last success if that is later.
        last_failure: When the last of them failed.
        failures: How many they are.
        witnessed: True if one of them shows more than a single broken job.
    """

    since: float
    last_failure: float
    failures: int = 0
    witnessed: bool = False

    def is_confirmed(self, now: float) -> bool:
        waited = now - self.since
        return waited >= CONFIRM_ANY_SECONDS or (waited >= CONFIRM_SECONDS and self.failures > 1 and self.witnessed)


class RequestHealth:
    """The health of one kind of requests.

    Args:
        requests: `reads` or `submissions`.
        clock: Measures everything.
        reason_of: Returns the reason of an error.
        failing_loops: Returns the number of poll loops whose last poll failed; None if these requests are no polls.
    """

    def __init__(
        self,
        requests: str,
        clock: Clock,
        reason_of: Callable[[UpstreamError], str],
        failing_loops: Callable[[], int] | None,
    ) -> None:
        self._requests = requests
        self._clock = clock
        self._reason_of = reason_of
        self._log = OutageLog(requests, clock, failing_loops)
        self._last_success = -math.inf
        self._last_subject: Subject = None
        self._run: _Run | None = None
        self._outage: Outage | None = None
        self._last_end = -math.inf
        self._timer = RearmableTimer(clock, self._tick)

    async def watch(self, request: Awaitable[T], subject: Subject) -> T:
        """Await a request, and take note of its outcome; for a cancelled one, see `abandoned`."""
        began = self._clock.monotonic()
        try:
            result = await request
        except UpstreamError as error:
            self._fail(error, subject, began)
            raise
        self._succeed(subject)
        return result

    def abandoned(self, began: float) -> None:
        """Take note of a request that got no response before it was cancelled. A short one shows nothing."""
        if self._clock.monotonic() >= began + CONFIRM_SECONDS:
            self._fail(UpstreamTimeout("no response before the caller gave up"), None, began)

    @property
    def failing(self) -> bool:
        """True during an outage, also while it recovers."""
        return self._outage is not None

    def snapshot(self) -> RequestHealthSnapshot:
        """Return the present state."""
        outage = self._outage
        return RequestHealthSnapshot(
            requests=self._requests,
            failing_since=None if outage is None else self._epoch(outage.since),
            recovering_since=None if outage is None else self._epoch(outage.recovering_since),
            reason="" if outage is None else outage.reason,
            cause="" if outage is None else outage.cause,
            failures=0 if outage is None else outage.failures,
            last_success=self._epoch(None if self._last_success == -math.inf else self._last_success),
        )

    def close(self) -> None:
        """Write no more lines."""
        self._outage = None
        self._timer.close()

    def _succeed(self, subject: Subject) -> None:
        self._last_success = self._clock.monotonic()
        self._last_subject = subject
        self._run = None
        outage = self._outage
        if outage is None:
            return
        if outage.recovering_since is None:
            outage.recovering_since = self._last_success
        self._end_if_due(outage, outage.recovering_since)

    def _fail(self, error: UpstreamError, subject: Subject, began: float) -> None:
        verdict = _verdict(error)
        if verdict is Verdict.WORKS:
            self._succeed(subject)
        elif verdict is Verdict.FAILS:
            run = self._add_to_run(subject, began)
            self._add_to_outage(run, self._reason_of(error), error.cause)

    def _add_to_run(self, subject: Subject, began: float) -> _Run:
        now = self._clock.monotonic()
        run = self._run
        if run is None or now >= run.last_failure + IDLE_SECONDS:
            run = self._run = _Run(max(began, self._last_success), now)
        run.last_failure = now
        run.failures += 1
        run.witnessed |= subject == self._last_subject or now >= self._last_success + OLD_SUCCESS_SECONDS
        return run

    def _add_to_outage(self, run: _Run, reason: str, cause: str) -> None:
        now, outage = run.last_failure, self._outage
        if outage is None:
            if run.is_confirmed(now):
                self._outage = Outage(run.since, run.failures, now, reason, cause)
                # In the next step of the event loop, so that the loop of this poll counts as failing.
                self._timer.set(now)
            return
        outage.failures += 1
        outage.last_failure, outage.reason, outage.cause = now, reason, cause
        if run.is_confirmed(now):
            outage.recovering_since = None

    def _tick(self) -> None:
        outage = self._outage
        if outage is None:
            return
        now = self._clock.monotonic()
        if outage.recovering_since is not None:
            self._end_if_due(outage, outage.recovering_since)
        elif now >= outage.last_failure + IDLE_SECONDS:
            self._end()
            self._log.idle(outage)
        if self._outage is not None:
            self._log.failing(outage)
            self._timer.set(now + LINE_SECONDS)

    def _end_if_due(self, outage: Outage, until: float) -> None:
        """End an outage that succeeds since `until`, unless another one ended less than a minute ago."""
        if self._clock.monotonic() < self._last_end + LINE_SECONDS:
            return
        if not outage.logged:
            self._log.failing(outage)
        self._end()
        self._log.recovered(outage, until)

    def _end(self) -> None:
        self._outage = None
        self._last_end = self._clock.monotonic()

    def _epoch(self, moment: float | None) -> float | None:
        return None if moment is None else epoch(self._clock, moment)


class UpstreamHealth:
    """The health of the upstream, one per process.

    Args:
        clock: Measures everything.
        reason_of: Returns the reason of an error, as in docs/reference/errors.md.
        failing_loops: Returns the number of poll loops whose last poll failed.

    Attributes:
        reads: The health of GET and DELETE.
        submissions: The health of POST.
    """

    def __init__(
        self, clock: Clock, *, reason_of: Callable[[UpstreamError], str], failing_loops: Callable[[], int]
    ) -> None:
        self.reads = RequestHealth("reads", clock, reason_of, failing_loops)
        self.submissions = RequestHealth("submissions", clock, reason_of, None)

    @property
    def failing(self) -> bool:
        """True while reads or submissions fail."""
        return self.reads.failing or self.submissions.failing

    def snapshot(self) -> tuple[RequestHealthSnapshot, RequestHealthSnapshot]:
        """Return the present state of reads and of submissions."""
        return self.reads.snapshot(), self.submissions.snapshot()

    def close(self) -> None:
        """Write no more lines, because the process stops."""
        self.reads.close()
        self.submissions.close()


def _verdict(error: UpstreamError) -> Verdict:
    """Return what an error says about the upstream: nothing if it may concern only this gateway or one request."""
    if isinstance(error, GatewayOverloaded):
        return Verdict.UNKNOWN
    if isinstance(error, UpstreamResponseTooLarge):
        return Verdict.WORKS
    if not isinstance(error, UpstreamStatusError):
        return Verdict.FAILS
    status = error.http_status
    if status >= 500 or status in GIVEN_UP:
        return Verdict.FAILS
    if error.from_api:
        return Verdict.WORKS
    return Verdict.UNKNOWN if status in PAGES_FOR_ONE else Verdict.FAILS
