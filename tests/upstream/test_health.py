"""The health of the upstream: when an outage begins and ends, and its lines in the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import (
    GatewayOverloaded,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamResponseTooLarge,
    UpstreamStatusError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.health import (
    CONFIRM_ANY_SECONDS,
    CONFIRM_SECONDS,
    IDLE_SECONDS,
    LINE_SECONDS,
    OLD_SUCCESS_SECONDS,
    Verdict,
)
from tests.support.clock import SteppedClock
from tests.support.transports import upstream_health

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gateway.upstream.health import RequestHealth
    from tests.support.transports import MakeTransport
    from tests.support.upstream import Connection, ScriptedUpstream

WORKS, FAILS, UNKNOWN = Verdict.WORKS, Verdict.FAILS, Verdict.UNKNOWN
UNAVAILABLE = UpstreamStatusError(503, "the upstream is not available (HTTP 503)", from_api=False)


class Requests:
    """Requests of one kind, whose outcomes a test chooses, on a stepped clock. `loops` counts as failing loops."""

    def __init__(self, kind: str = "reads") -> None:
        self.clock = SteppedClock()
        self.loops = 1
        self.all = upstream_health(self.clock, lambda: self.loops)
        self.health: RequestHealth = getattr(self.all, kind)

    async def end(self, error: Exception | None = None, subject: Hashable = 42, seconds: float = 0.0) -> None:
        """End a request that took `seconds`."""

        async def request() -> None:
            await self.clock.advance(seconds)
            if error is not None:
                raise error

        if error is None:
            await self.health.watch(request(), subject)
        else:
            with pytest.raises(type(error)):
                await self.health.watch(request(), subject)

    def is_failing(self) -> bool:
        return self.all.failing

    async def fail_for(self, seconds: float, *, every: float = 1.0, error: Exception = UNAVAILABLE) -> None:
        """End a request with `error` now, and one in each interval of the next `seconds`."""
        await self.end(error)
        for _ in range(round(seconds / every)):
            await self.clock.advance(every)
            await self.end(error)
        await self.clock.advance(0)


@pytest.fixture
def requests() -> Requests:
    return Requests()


def events(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


async def test_an_outage_has_a_line_at_begin_and_end(requests: Requests, logged: list[Any]) -> None:
    await requests.end()
    await requests.fail_for(CONFIRM_SECONDS)
    assert requests.is_failing()
    shown = {
        "requests": "reads",
        "reason": "UPSTREAM_UNAVAILABLE",
        "cause": "HTTP 503",
        "since": "2023-11-14T22:30:00Z",
    }
    began = {**shown, "seconds": CONFIRM_SECONDS, "failures": 3, "loops": 1}
    assert logged == [{"event": "upstream.failing", "log_level": "warning", **began}]
    await requests.clock.advance(1)
    await requests.end()
    assert not requests.is_failing()
    ended = {**shown, "seconds": CONFIRM_SECONDS + 1, "failures": 3}
    assert logged[1:] == [{"event": "upstream.recovered", "log_level": "info", **ended}]


async def test_a_line_each_minute_counts_the_failures(requests: Requests, logged: list[Any]) -> None:
    await requests.fail_for(CONFIRM_SECONDS)
    await requests.fail_for(3 * LINE_SECONDS, every=5, error=UpstreamUnreachable("no", cause="Connection refused"))
    assert events(logged) == ["upstream.failing"] * 4
    assert [line["failures"] for line in logged] == [3, 15, 27, 39]
    assert [line["cause"] for line in logged[1:]] == ["Connection refused"] * 3
    assert [line["seconds"] for line in logged] == [CONFIRM_SECONDS + n * LINE_SECONDS for n in range(4)]


@pytest.mark.parametrize("kind", ["reads", "submissions"])
async def test_one_failure_among_successes_is_no_outage(kind: str, logged: list[Any]) -> None:
    requests = Requests(kind)
    for _ in range(100):
        await requests.end()
        await requests.clock.advance(0.5)
        await requests.end(UNAVAILABLE)
        await requests.clock.advance(CONFIRM_SECONDS)
        await requests.end()
    assert logged == []


async def test_two_failures_at_one_moment_are_no_outage(requests: Requests, logged: list[Any]) -> None:
    await requests.end()
    for _ in range(100):
        await requests.end(UNAVAILABLE)
    await requests.clock.advance(CONFIRM_SECONDS)
    assert not requests.is_failing()
    await requests.end(UNAVAILABLE)
    assert requests.is_failing()


async def test_a_broken_job_beside_a_good_one_is_no_outage(requests: Requests, logged: list[Any]) -> None:
    for _ in range(100):
        await requests.end(subject="good")
        for _ in range(4):
            await requests.clock.advance(1)
            await requests.end(UNAVAILABLE, subject="broken")
        await requests.clock.advance(1)
    assert logged == []
    # The good one fails, too.
    await requests.end(UNAVAILABLE, subject="broken")
    await requests.clock.advance(1)
    await requests.end(UNAVAILABLE, subject="good")
    assert requests.is_failing()


async def test_a_broken_job_counts_if_no_other_succeeds(requests: Requests) -> None:
    await requests.end(subject="good")
    await requests.fail_for(CONFIRM_ANY_SECONDS - 1)
    assert not requests.is_failing()
    await requests.fail_for(1)
    assert requests.is_failing()


async def test_an_old_success_is_no_sign_of_health(requests: Requests) -> None:
    await requests.end(subject="good")
    await requests.clock.advance(OLD_SUCCESS_SECONDS)
    await requests.fail_for(CONFIRM_SECONDS)
    assert requests.is_failing()


async def test_one_request_without_a_response_is_an_outage(requests: Requests) -> None:
    await requests.end()
    await requests.end(UpstreamTimeout("the upstream did not respond in time"), seconds=CONFIRM_ANY_SECONDS - 0.1)
    assert not requests.is_failing()
    await requests.end()
    await requests.end(UpstreamTimeout("the upstream did not respond in time"), seconds=CONFIRM_ANY_SECONDS)
    assert requests.is_failing()


async def test_requests_that_were_given_up_are_an_outage(requests: Requests, logged: list[Any]) -> None:
    await requests.end()
    for _ in range(3):
        requests.health.abandoned(requests.clock.now - CONFIRM_SECONDS + 0.1)
        await requests.clock.advance(CONFIRM_ANY_SECONDS)
    assert not requests.is_failing(), "too short to show anything"
    began = requests.clock.now
    while requests.clock.now < began + CONFIRM_ANY_SECONDS:
        await requests.clock.advance(CONFIRM_SECONDS)
        requests.health.abandoned(requests.clock.now - CONFIRM_SECONDS)
    await requests.clock.advance(0)
    assert [(line["reason"], line["cause"]) for line in logged] == [
        ("UPSTREAM_TIMEOUT", "no response before the caller gave up")
    ]


@pytest.mark.parametrize("responds", [False, True])
async def test_a_cancelled_request_is_abandoned(
    make: MakeTransport, upstream: ScriptedUpstream, *, responds: bool
) -> None:
    begun = asyncio.Event()

    async def silent(connection: Connection) -> None:
        if responds:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            await connection.delivered()
        begun.set()
        await connection.gone()

    upstream.script.append(silent)
    abandoned: list[float] = []
    transport = make(abandoned=abandoned.append)
    exchange = asyncio.create_task(transport.request("GET", upstream.url, {}))
    await begun.wait()
    exchange.cancel()
    await asyncio.wait([exchange])
    assert abandoned == ([] if responds else [transport.clock.now])


async def test_a_late_failure_from_before_a_success_is_none(requests: Requests) -> None:
    began = requests.clock.now
    await requests.clock.advance(CONFIRM_ANY_SECONDS)
    await requests.end()
    requests.health._fail(UNAVAILABLE, 42, began)  # noqa: SLF001 - it began before others
    assert not requests.is_failing()


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (UpstreamUnreachable("no"), FAILS),
        (UpstreamTimeout("no"), FAILS),
        (UpstreamConnectionLost("no"), FAILS),
        (UpstreamMalformed("no"), FAILS),
        (UpstreamResponseTooLarge("no"), WORKS),
        (GatewayOverloaded("no", may_have_been_sent=True), UNKNOWN),
        *((UpstreamStatusError(status, "no"), WORKS) for status in (400, 401, 403, 404, 409, 410, 425, 429)),
        *((UpstreamStatusError(status, "no"), FAILS) for status in (408, 444, 460, 499, 500, 502, 503, 504)),
        *((UpstreamStatusError(status, "no", from_api=False), FAILS) for status in (400, 403, 404, 405, 407, 503)),
        *((UpstreamStatusError(status, "no", from_api=False), UNKNOWN) for status in (401, 413, 414, 429, 431)),
    ],
    ids=lambda value: getattr(value, "cause", None) or str(value),
)
async def test_an_error_shows_health_or_failure_or_nothing(error: UpstreamError, verdict: Verdict) -> None:
    failing = Requests()
    await failing.fail_for(CONFIRM_SECONDS)
    await failing.end(error)
    assert failing.is_failing() == (verdict is not WORKS)
    fresh = Requests()
    await fresh.fail_for(CONFIRM_ANY_SECONDS, error=error)
    assert fresh.is_failing() == (verdict is FAILS)


@pytest.mark.parametrize(("seconds", "fails"), [(IDLE_SECONDS - 1, True), (IDLE_SECONDS, False)])
async def test_failures_far_apart_do_not_count_together(requests: Requests, seconds: float, *, fails: bool) -> None:
    await requests.end()
    await requests.end(UNAVAILABLE)
    await requests.clock.advance(seconds)
    await requests.end(UNAVAILABLE)
    assert requests.is_failing() == fails
    await requests.clock.advance(CONFIRM_SECONDS)
    await requests.end(UNAVAILABLE)
    assert requests.is_failing(), "the later ones count"


async def test_reads_and_submissions_fail_apart(logged: list[Any]) -> None:
    reads, submissions = Requests(), Requests("submissions")
    submissions.all = reads.all
    submissions.health = reads.all.submissions
    submissions.clock = reads.clock
    await submissions.fail_for(CONFIRM_SECONDS)
    await reads.end()
    assert [line["requests"] for line in logged] == ["submissions"]
    assert "loops" not in logged[0]
    assert reads.is_failing()
    assert [each.failing_since is None for each in reads.all.snapshot()] == [True, False]
    await submissions.end()
    assert not reads.is_failing()


async def test_an_upstream_that_comes_and_goes_fills_no_log(requests: Requests, logged: list[Any]) -> None:
    for _ in range(60):
        await requests.fail_for(CONFIRM_SECONDS)
        for _ in range(8):
            await requests.clock.advance(1)
            await requests.end()
    minutes = 60 * (CONFIRM_SECONDS + 8) / 60
    assert events(logged)[:2] == ["upstream.failing", "upstream.recovered"], "the first at once"
    assert 2 * minutes - 2 <= len(logged) <= 3 * minutes + 2


async def test_an_end_that_is_held_back_comes_with_a_minute(requests: Requests, logged: list[Any]) -> None:
    for _ in range(2):
        await requests.fail_for(CONFIRM_SECONDS)
        await requests.clock.advance(1)
        await requests.end()
    assert events(logged) == ["upstream.failing", "upstream.recovered", "upstream.failing"]
    assert requests.is_failing()
    await requests.clock.advance(LINE_SECONDS)
    assert not requests.is_failing()
    assert events(logged)[3:] == ["upstream.recovered"]
    assert logged[3]["seconds"] == CONFIRM_SECONDS + 1, "to the first success, not to the line"


async def test_failures_during_a_held_end_continue_the_outage(requests: Requests, logged: list[Any]) -> None:
    for _ in range(3):
        await requests.fail_for(CONFIRM_SECONDS)
        await requests.clock.advance(1)
        await requests.end()
    await requests.fail_for(CONFIRM_SECONDS)
    await requests.clock.advance(LINE_SECONDS)
    assert requests.is_failing()
    assert events(logged)[2:] == ["upstream.failing"] * 2


async def test_an_outage_of_a_moment_is_held_back_too(requests: Requests, logged: list[Any]) -> None:
    await requests.fail_for(CONFIRM_SECONDS)
    await requests.end()
    await requests.fail_for(CONFIRM_SECONDS - 1)
    await requests.clock.advance(1)
    # The success is in the same step of the event loop, before the line of the outage.
    requests.health.abandoned(requests.clock.now - CONFIRM_SECONDS)

    async def responds() -> None:
        pass

    await requests.health.watch(responds(), 42)
    await requests.clock.advance(0)
    assert events(logged) == ["upstream.failing", "upstream.recovered", "upstream.failing"]
    await requests.clock.advance(LINE_SECONDS)
    assert events(logged)[3:] == ["upstream.recovered"]


async def test_a_failure_before_a_held_end_counts_after_it(requests: Requests) -> None:
    for _ in range(2):
        await requests.fail_for(CONFIRM_SECONDS)
        await requests.end()
    await requests.clock.advance(LINE_SECONDS - 1)
    assert requests.is_failing()
    await requests.end(UNAVAILABLE)
    await requests.clock.advance(1)
    assert not requests.is_failing(), "one failure does not continue the outage"
    await requests.clock.advance(CONFIRM_SECONDS - 1)
    await requests.end(UNAVAILABLE)
    assert requests.is_failing()


async def test_the_snapshot_says_since_when_it_recovers(requests: Requests) -> None:
    for _ in range(2):
        await requests.fail_for(CONFIRM_SECONDS)
        assert requests.all.snapshot()[0].recovering_since is None
        await requests.clock.advance(1)
        await requests.end()
    recovering = requests.clock.time()
    for _ in range(20):
        await requests.clock.advance(1)
        await requests.end()
    reads = requests.all.snapshot()[0]
    assert (reads.failing_since, reads.recovering_since) == (recovering - CONFIRM_SECONDS - 1, recovering)
    await requests.fail_for(CONFIRM_SECONDS)
    assert requests.all.snapshot()[0].recovering_since is None
    await requests.clock.advance(1)
    await requests.end()
    await requests.clock.advance(LINE_SECONDS)
    reads = requests.all.snapshot()[0]
    assert (reads.failing_since, reads.recovering_since) == (None, None)


@pytest.mark.parametrize("more", [0, 1])
async def test_without_requests_an_outage_is_forgotten(requests: Requests, logged: list[Any], more: int) -> None:
    await requests.fail_for(CONFIRM_SECONDS)
    await requests.clock.advance(LINE_SECONDS * 1.5)
    await requests.fail_for(more)
    await requests.clock.advance(IDLE_SECONDS + LINE_SECONDS)
    assert not requests.is_failing()
    assert events(logged) == ["upstream.failing"] * 2 + ["upstream.idle"], "a line for the failure in between"
    assert logged[-1]["log_level"] == "info"
    await requests.clock.advance(2 * IDLE_SECONDS)
    assert len(logged) == 3


async def test_the_snapshot_has_times_of_the_wall_clock(requests: Requests) -> None:
    reads, submissions = requests.all.snapshot()
    assert (reads.failing_since, reads.last_success, reads.cause, reads.failures) == (None, None, "", 0)
    assert (reads.requests, submissions.requests) == ("reads", "submissions")
    now = requests.clock.time()
    await requests.end()
    await requests.clock.advance(5)
    await requests.fail_for(CONFIRM_SECONDS)
    reads, _ = requests.all.snapshot()
    assert (reads.failing_since, reads.last_success, reads.failures) == (now + 5, now, 3)
    assert (reads.reason, reads.cause) == ("UPSTREAM_UNAVAILABLE", "HTTP 503")


async def test_after_close_nothing_is_written(requests: Requests, logged: list[Any]) -> None:
    await requests.fail_for(CONFIRM_SECONDS)
    requests.all.close()
    await requests.fail_for(LINE_SECONDS)
    await requests.clock.advance(LINE_SECONDS)
    assert len(logged) == 1
