"""Many readers of the status page cost as much as one, and none of them harms another."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import make_mocked_request
from jobgateway.v1 import job_service_pb2 as pb

from gateway.server.status_page import collector
from gateway.server.status_page.collector import Collector
from gateway.server.status_page.pages import HEADERS, MAX_PAGES, SHARE_SECONDS, StatusPages
from tests.support.clock import SteppedClock
from tests.support.gateways import next_event, running, stub
from tests.support.upstream import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import web

    from gateway.server.gateway import Gateway
    from gateway.server.status_page.collector import Sources
    from tests.support.upstream import ScriptedUpstream


class Readers:
    """Readers of the pages of a gateway, whose clock stands still."""

    def __init__(self, sources: Sources) -> None:
        self.clock = SteppedClock()
        self.pages = StatusPages(Collector(sources), self.clock)

    def start(self, query: str = "") -> asyncio.Task[web.Response]:
        return asyncio.create_task(self.pages.json(make_mocked_request("GET", f"/statusz?{query}")))

    def start_runbook(self) -> asyncio.Task[web.Response]:
        return asyncio.create_task(self.pages.runbook(make_mocked_request("GET", "/runbook")))


def sources_of(gateway: Gateway) -> Sources:
    return gateway._sources()  # noqa: SLF001 - requests over sockets come in no certain order


@contextmanager
def readers_of(sources: Sources) -> Iterator[Readers]:
    made = Readers(sources)
    try:
        yield made
    finally:
        made.pages.close()


@pytest.fixture
async def readers(gateway: Gateway) -> AsyncIterator[Readers]:
    with readers_of(sources_of(gateway)) as made:
        yield made


async def test_equal_requests_share_one_rendering(readers: Readers) -> None:
    responses = await asyncio.gather(*(readers.start("sort=uid") for _ in range(200)))
    assert {each.status for each in responses} == {200}
    first = responses[0].body
    assert all(each.body is first for each in [*responses, await readers.start("sort=uid")])
    assert (await readers.start("sort=age")).body is not first
    await readers.clock.advance(SHARE_SECONDS)
    assert (await readers.start("sort=uid")).body is not first


async def test_the_runbook_is_rendered_once(readers: Readers) -> None:
    first = (await readers.start_runbook()).body
    await readers.start()
    await readers.clock.advance(SHARE_SECONDS)
    assert (await readers.start_runbook()).body is first


async def test_more_different_pages_than_fit_are_rejected(readers: Readers) -> None:
    started = [*(readers.start(f"uid={uid}") for uid in range(MAX_PAGES)), readers.start("uid=x")]
    *fitting, rejected, runbook = await asyncio.gather(*started, readers.start_runbook())
    assert {each.status for each in fitting} == {200}
    for each in (rejected, runbook):
        assert each.status == 503
        assert each.headers["retry-after"] == "1"
        assert HEADERS.items() <= dict(each.headers).items()


async def test_any_number_of_pages_fits_in_turn(readers: Readers) -> None:
    responses = [await readers.start(f"uid={uid}") for uid in range(2 * MAX_PAGES)]
    assert {each.status for each in responses} == {200}
    # Only the last ones are kept.
    assert (await readers.start(f"uid={MAX_PAGES}")).body is responses[MAX_PAGES].body
    assert (await readers.start("uid=0")).body is not responses[0].body


async def test_a_reader_that_leaves_disturbs_no_other(readers: Readers) -> None:
    leaving, staying, other = readers.start(), readers.start(), readers.start("sort=uid")
    await asyncio.sleep(0)
    leaving.cancel()
    assert [(await each).status for each in (staying, other)] == [200, 200]
    assert leaving.cancelled()


async def test_a_failure_is_not_shared_for_a_second(gateway: Gateway) -> None:
    failures = iter([OSError("once")])

    def is_ready() -> bool:
        for failure in failures:
            raise failure
        return True

    with readers_of(replace(sources_of(gateway), is_ready=is_ready)) as readers:
        with pytest.raises(OSError, match="once"):
            await readers.start()
        assert (await readers.start()).status == 200


async def test_jobs_and_calls_are_read_in_steps(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LOOPS_PER_STEP", 2)
    monkeypatch.setattr(collector, "CALLS_PER_STEP", 1)
    upstream.script += [answer(200, {"uid": uid, "status": "running"}) for uid in (1, 2, 3)]
    slow = {"poll_interval_min_seconds": 3_000.0, "poll_interval_max_seconds": 3_000.0}
    async with running(upstream.url, **slow) as gateway, stub(gateway) as jobs:
        streams: list[Any] = []
        for uid in (1, 2, 3):
            metadata = (("authorization", f"Bearer the-token-of-{uid}"),)
            streams.append(jobs.WatchJob(pb.WatchJobRequest(uid=uid), metadata=metadata))
            await next_event(streams[-1])
        collecting = asyncio.create_task(Collector(sources_of(gateway)).collect())
        turns = 0
        while not collecting.done():
            await asyncio.sleep(0)
            turns += 1
        # The event loop ran once between the steps of the jobs, and twice between those of the calls.
        assert turns == 1 + 1 + 2
        assert len(collecting.result().loops) == 3
