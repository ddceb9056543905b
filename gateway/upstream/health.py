"""The health of the upstream, as this process sees it: failing or not, since when, and why.

Reads (GET and DELETE) and submissions (POST) are judged apart, because one can fail while the other works.
An outage begins when requests have failed, and none has succeeded since the first of them was sent:

- for 2 seconds, if at least two failed, one of them for the job that was read successfully last (for submissions: the
  entity). So one broken job beside a good one is no outage. After a minute without a success, any two will do;
- for 10 seconds in any case.

The first success ends it. But if another outage ended less than a minute ago, the end has to last until the next line
is due. So an upstream that comes and goes causes at most three lines a minute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from gateway.clock import RearmableTimer
from gateway.errors import (
    GatewayOverloaded,
    UpstreamError,
    UpstreamResponseTooLarge,
    UpstreamStatusError,
    UpstreamTimeout,
)

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
# Without requests for this long, nobody knows whether the outage lasts.
IDLE_SECONDS = 300.0

# Statuses of proxies that gave a request up.
GIVEN_UP = frozenset({408, 444, 460, 499})
# Statuses of a page that may concern only one credential or one request.
PAGES_FOR_ONE = frozenset({401, 413, 414, 429, 431})

_log = structlog.get_logger()


class RequestHealthSnapshot(msgspec.Struct, frozen=True):
    """The health of one kind of requests.

    Attributes:
        requests: `reads` or `submissions`.
        failing_since: Since when they fail, in seconds since the epoch; None if they do not.
        reason: The reason of the last failure of this outage, as in docs/reference/errors.md; empty without outage.
        cause: Its cause, such as "Connection refused"; empty without outage.
        failures: The failed requests of this outage.
        last_success: When the upstream last responded as it should, in seconds since the epoch; None if never.
    """

    requests: str
    failing_since: float | None
    reason: str
    cause: str
    failures: int
    last_success: float | None


@dataclass(slots=True)
class _Run:
    """Failures without a success between them. `since` is when the first of them began, or the success before."""

    since: float
    failures: int = 0
    witnessed: bool = False

    def is_confirmed(self, now: float) -> bool:
        waited = now - self.since
        return waited >= CONFIRM_ANY_SECONDS or (waited >= CONFIRM_SECONDS and self.failures > 1 and self.witnessed)


@dataclass(slots=True)
class _Outage:
    """An outage. `good_since` is its presumed end, and `logged` the number of failures in its last line."""

    since: float
    failures: int
    last_failure: float
    reason: str
    cause: str
    good_since: float | None = None
    logged: int = 0


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
        self._failing_loops = failing_loops
        self._last_success = -math.inf
        self._last_subject: Subject = None
        self._run: _Run | None = None
        self._outage: _Outage | None = None
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
        """True during an outage."""
        return self._outage is not None

    def snapshot(self) -> RequestHealthSnapshot:
        """Return the present state."""
        outage = self._outage
        return RequestHealthSnapshot(
            requests=self._requests,
            failing_since=None if outage is None else self._epoch(outage.since),
            reason="" if outage is None else outage.reason,
            cause="" if outage is None else outage.cause,
            failures=0 if outage is None else outage.failures,
            last_success=None if self._last_success == -math.inf else self._epoch(self._last_success),
        )

    def close(self) -> None:
        """Write no more lines."""
        self._outage = None
        self._timer.close()

    def _succeed(self, subject: Subject) -> None:
        self._last_success = self._clock.monotonic()
        self._last_subject = subject
        self._run = None
        if self._outage is not None:
            self._improve(self._outage)

    def _improve(self, outage: _Outage) -> None:
        if outage.good_since is None:
            outage.good_since = self._last_success
        if self._last_success >= self._last_end + LINE_SECONDS:
            self._recover(outage)

    def _fail(self, error: UpstreamError, subject: Subject, began: float) -> None:
        works = _is_working(error)
        if works is None:
            return
        if works:
            self._succeed(subject)
            return
        now = self._clock.monotonic()
        run = self._run
        if run is None:
            run = self._run = _Run(max(began, self._last_success))
        run.failures += 1
        run.witnessed |= subject == self._last_subject or now >= self._last_success + OLD_SUCCESS_SECONDS
        reason, cause = self._reason_of(error), error.cause
        if self._outage is None:
            if run.is_confirmed(now):
                self._outage = _Outage(run.since, run.failures, now, reason, cause)
                # In the next step of the event loop, so that the loop of this poll counts as failing.
                self._timer.set(now)
            return
        outage = self._outage
        outage.failures += 1
        outage.last_failure, outage.reason, outage.cause = now, reason, cause
        if run.is_confirmed(now):
            outage.good_since = None

    def _tick(self) -> None:
        outage = self._outage
        if outage is None:
            return
        now = self._clock.monotonic()
        if outage.good_since is not None:
            self._recover(outage)
        elif now >= max(outage.last_failure, self._last_success) + IDLE_SECONDS:
            self._end(now)
            _log.info("upstream.idle", **self._fields(outage, outage.last_failure))
        else:
            if outage.failures > outage.logged:
                self._write(outage, now)
            self._timer.set(now + LINE_SECONDS)

    def _write(self, outage: _Outage, now: float) -> None:
        outage.logged = outage.failures
        loops = {} if self._failing_loops is None else {"loops": self._failing_loops()}
        _log.warning("upstream.failing", **self._fields(outage, now), **loops)

    def _recover(self, outage: _Outage) -> None:
        now = self._clock.monotonic()
        until = now if outage.good_since is None else outage.good_since
        if not outage.logged:
            self._write(outage, until)
        self._end(now)
        _log.info("upstream.recovered", **self._fields(outage, until))

    def _end(self, now: float) -> None:
        self._outage = self._run = None
        self._last_end = now

    def _fields(self, outage: _Outage, until: float) -> dict[str, object]:
        since = datetime.fromtimestamp(self._epoch(outage.since), UTC).isoformat(timespec="seconds")
        return {
            "requests": self._requests,
            "reason": outage.reason,
            "cause": outage.cause,
            "since": since.replace("+00:00", "Z"),
            "seconds": round(until - outage.since, 1),
            "failures": outage.failures,
        }

    def _epoch(self, moment: float) -> float:
        return self._clock.time() - (self._clock.monotonic() - moment)


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


def _is_working(error: UpstreamError) -> bool | None:
    """Return what an error says about the upstream; None if it may concern only this gateway, credential or request."""
    if isinstance(error, GatewayOverloaded):
        return None
    if isinstance(error, UpstreamStatusError):
        status = error.http_status
        if status >= 500 or status in GIVEN_UP:
            return False
        if error.from_api:
            return True
        return None if status in PAGES_FOR_ONE else False
    return isinstance(error, UpstreamResponseTooLarge)
