"""Outcomes and latencies of the upstream requests of the last minutes, as the status page shows them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.clock import Clock
    from gateway.upstream.transport import RequestObserver

# The figures cover whole slices of this length, and the present one.
SLICE_SECONDS = 10.0
KEEP_SECONDS = 900.0
SLICES = round(KEEP_SECONDS / SLICE_SECONDS) + 1
SUBMIT = "POST"
# Upper bounds of latencies in seconds, each 15 % above the one before: 1 ms to 150 s.
BOUNDS = tuple(0.001 * 1.15**power for power in range(86))


class RecentFigures(msgspec.Struct, frozen=True):
    """The requests of one kind within some minutes.

    Attributes:
        requests: The number of requests that ended.
        succeeded: Those with a 2xx.
        rate_limited: Those with a 429.
        rejected: Those with another 4xx.
        failed: Those with a 5xx, a redirect, or another status that is no response of the API.
        no_response: Those without a valid response, such as lost connections and timeouts.
        median_seconds: Half of them took at most this long; None without requests.
        p90_seconds: Nine of ten took at most this long; None without requests.
    """

    requests: int
    succeeded: int
    rate_limited: int
    rejected: int
    failed: int
    no_response: int
    median_seconds: float | None
    p90_seconds: float | None


# Indexes into the outcomes of a slice.
SUCCEEDED, RATE_LIMITED, REJECTED, FAILED, NO_RESPONSE = OUTCOMES = range(5)


class _Slice:
    """The requests of one kind in one slice of time."""

    __slots__ = ("latencies", "number", "outcomes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.outcomes = [0] * len(OUTCOMES)
        self.latencies = [0] * (len(BOUNDS) + 1)


class RecentRequests:
    """Counts each exchange of the last 15 minutes, and passes it on to `then`. A count takes about a microsecond."""

    def __init__(self, clock: Clock, then: RequestObserver) -> None:
        self._clock = clock
        self._then = then
        self._reads: deque[_Slice] = deque(maxlen=SLICES)
        self._submissions: deque[_Slice] = deque(maxlen=SLICES)

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """Count an exchange, as in `RequestObserver`."""
        self._then.exchanged(method, status, seconds, size)
        slices = self._submissions if method == SUBMIT else self._reads
        number = int(self._clock.monotonic() // SLICE_SECONDS)
        if not slices or slices[-1].number != number:
            slices.append(_Slice(number))
        slices[-1].outcomes[_outcome(status)] += 1
        slices[-1].latencies[bisect_left(BOUNDS, seconds)] += 1

    def reads(self, seconds: float) -> RecentFigures:
        """Return the reads and cancellations of the last `seconds`, at most 900."""
        return self._figures(self._reads, seconds)

    def submissions(self, seconds: float) -> RecentFigures:
        """Return the submissions of the last `seconds`, at most 900."""
        return self._figures(self._submissions, seconds)

    def _figures(self, slices: Iterable[_Slice], seconds: float) -> RecentFigures:
        oldest = (self._clock.monotonic() - seconds) // SLICE_SECONDS
        counted = [each for each in slices if each.number >= oldest]
        outcomes = [sum(each) for each in zip(*(one.outcomes for one in counted), strict=True)] or [0] * len(OUTCOMES)
        latencies = [sum(each) for each in zip(*(one.latencies for one in counted), strict=True)]
        return RecentFigures(
            requests=sum(outcomes),
            succeeded=outcomes[SUCCEEDED],
            rate_limited=outcomes[RATE_LIMITED],
            rejected=outcomes[REJECTED],
            failed=outcomes[FAILED],
            no_response=outcomes[NO_RESPONSE],
            median_seconds=_quantile(latencies, 0.5),
            p90_seconds=_quantile(latencies, 0.9),
        )


def _outcome(status: int | None) -> int:
    if status is None:
        return NO_RESPONSE
    if 200 <= status < 300:
        return SUCCEEDED
    if status == 429:
        return RATE_LIMITED
    return REJECTED if 400 <= status < 500 else FAILED


def _quantile(counts: list[int], part: float) -> float | None:
    """Return the upper bound of the bucket in which `part` of all observations is reached."""
    total = sum(counts)
    if not total:
        return None
    reached = next(index for index, count in enumerate(accumulate(counts)) if count >= math.ceil(part * total))
    return BOUNDS[min(reached, len(BOUNDS) - 1)]
