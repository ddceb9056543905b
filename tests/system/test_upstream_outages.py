"""Outages of the upstream with a watch open: what the log, the metric and the client say."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc.tracing import NoopTracer
from tests.support.clock import SteppedClock
from tests.support.gateways import BEARER, GET_JOB, SEND, expect_error, next_event, read_all, running, stub
from tests.support.raw import free_port
from tests.support.scraping import scrape
from tests.support.upstream import DONE, JOBS, RUNNING, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.rpc.tracing import CallSpan

WATCH = pb.WatchJobRequest(uid=42)
PAGE = b"<html>Not Found</html>"


class Polls(NoopTracer):
    """Counts the polls that have ended, and steps the clock from one to the next."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self._ended = 0

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        span = super().call(method, traceparent)
        span.poll = self._poll  # type: ignore[assignment]
        return span

    @contextmanager
    def _poll(self, _: int, headers: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
        try:
            yield headers
        finally:
            self._ended += 1

    async def next(self) -> None:
        """Let the time of a poll pass, and return when it has ended."""
        before = self._ended
        await self.clock.advance(5)
        while self._ended == before:  # noqa: ASYNC110 - it ends by itself
            await asyncio.sleep(0.001)
        # Lines are written by timers that are due now.
        await self.clock.advance(0)


def outage(logged: list[Any]) -> list[dict[str, Any]]:
    return [line for line in logged if line["event"].startswith("upstream.")]


async def test_twelve_polls_with_503_leave_lines(upstream: ScriptedUpstream, logged: list[Any]) -> None:
    polls = Polls()
    upstream.script.append(RUNNING)
    slow = {"poll_interval_max_seconds": 5.0}
    async with running(upstream.url, polls, polls.clock, **slow) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(WATCH, metadata=BEARER)
        await next_event(stream)
        upstream.script[0] = answer(503, raw=b"<html>503</html>")
        upstream.seen.clear()
        while len(upstream.seen) < 12:
            await polls.next()
        assert (await scrape(gateway))("jobgateway_upstream_failing") == 1
        upstream.script[0] = DONE
        await polls.next()
        await read_all(stream)
        assert (await scrape(gateway))("jobgateway_upstream_failing") == 0
    *failing, recovered = outage(logged)
    assert [line["event"] for line in failing] == ["upstream.failing"] * len(failing)
    for line in failing:
        assert (line["cause"], line["reason"]) == ("HTTP 503", "UPSTREAM_UNAVAILABLE")
        assert (line["requests"], line["loops"]) == ("reads", 1)
    assert failing
    assert (recovered["event"], recovered["failures"]) == ("upstream.recovered", len(upstream.seen) - 1)


async def test_an_upstream_that_is_away_for_a_minute_leaves_lines(
    upstream: ScriptedUpstream, logged: list[Any]
) -> None:
    polls = Polls()
    upstream.script.append(RUNNING)
    slow = {"poll_interval_max_seconds": 5.0}
    async with running(upstream.url, polls, polls.clock, **slow) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(WATCH, metadata=BEARER)
        await next_event(stream)
        await upstream.stop()
        began = polls.clock.now
        while not outage(logged):
            await polls.next()
        assert polls.clock.now - began <= 15, "within a few polls"
        while polls.clock.now - began < 60:
            await polls.next()
        back = ScriptedUpstream()
        back.script.append(DONE)
        await back.start(upstream.port)
        await polls.next()
        await read_all(stream)
        await back.stop()
    *failing, recovered = outage(logged)
    assert [line["event"] for line in failing] == ["upstream.failing"] * len(failing)
    for line in failing:
        assert (line["cause"], line["reason"]) == ("Connection refused", "UPSTREAM_UNREACHABLE")
        assert line["loops"] == 1
    assert failing
    assert recovered["event"] == "upstream.recovered"
    assert 55 <= recovered["seconds"] <= 65


async def test_submissions_alone_can_fail(upstream: ScriptedUpstream, logged: list[Any]) -> None:
    clock = SteppedClock()
    upstream.script.append(RUNNING)
    upstream.on("POST", JOBS, answer(503, {"detail": "a text of the upstream"}))
    async with running(upstream.url, None, clock) as gateway, stub(gateway) as jobs:
        for _ in range(3):
            await expect_error(jobs.SendJob(SEND, metadata=BEARER))
            await jobs.GetJob(GET_JOB, metadata=BEARER)
            await clock.advance(1)
        await expect_error(jobs.SendJob(SEND, metadata=BEARER))
        await clock.advance(0)
    assert [(line["event"], line["requests"]) for line in outage(logged)] == [("upstream.failing", "submissions")]
    assert (outage(logged)[0]["cause"], outage(logged)[0]["reason"]) == ("HTTP 503", "UPSTREAM_UNAVAILABLE")


async def test_a_client_is_told_the_cause() -> None:
    async with running(f"http://127.0.0.1:{free_port()}/api") as gateway, stub(gateway) as jobs:
        for call in (jobs.GetJob(GET_JOB, metadata=BEARER), jobs.SendJob(SEND, metadata=BEARER)):
            failure = await expect_error(call)
            assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE")
            assert failure.message == (
                "no connection to the upstream could be made: Connection refused; "
                "check host and port in JOBGATEWAY_UPSTREAM_URL, and whether the upstream runs"
            )


@pytest.mark.parametrize(
    ("reply", "reason", "problem"),
    [
        (answer(404, raw=PAGE), "UPSTREAM_MALFORMED", "the response is not from the API (HTTP 404)"),
        (answer(200, raw=PAGE), "UPSTREAM_MALFORMED", "the upstream responded with text that is not JSON"),
        (answer(301), "UPSTREAM_MALFORMED", "the upstream responded with a redirect (HTTP 301)"),
    ],
    ids=["404", "200", "301"],
)
async def test_a_foreign_page_points_at_the_url(
    upstream: ScriptedUpstream, reply: bytes, reason: str, problem: str
) -> None:
    upstream.script.append(reply)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        failure = await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER))
    assert failure.reason == reason
    assert failure.message.startswith(problem)
    assert failure.message.endswith("check the scheme, host and path in JOBGATEWAY_UPSTREAM_URL")
    assert "Not Found" not in failure.message
