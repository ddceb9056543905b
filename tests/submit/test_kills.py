"""Kill -9 at every step of a submission, with real processes: at most one job, and a true answer to a repetition."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.submit.dying import STEPS
from tests.submit.fleet import GatewayProcess, send
from tests.support.upstream import Connection, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

JOB = 42
# The POSTs that the upstream sees in all, and the answers to the repetition that are true.
NEW, UNKNOWN, REPLAYED = "a new job", "SUBMIT_OUTCOME_UNKNOWN", "the same job"
EXPECTED: dict[str, tuple[int, set[str]]] = {
    "before_claim": (1, {NEW}),
    "after_claim": (0, {UNKNOWN}),
    "during_post": (1, {UNKNOWN}),
    "before_settle": (1, {UNKNOWN}),
    # A transaction of SQLite is rolled back; Redis may have run the script.
    "during_settle": (1, {UNKNOWN, REPLAYED}),
    "after_settle": (1, {REPLAYED}),
}


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.tools)])
async def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    if request.param == "sqlite":
        return {"state_url": f"sqlite://{tmp_path}/state.db"}
    key = tmp_path / "key"
    key.write_text("k" * 32)
    return {"state_url": request.getfixturevalue("redis").url, "state_key_file": key}


@pytest.fixture
async def gateways(upstream: ScriptedUpstream, settings: dict[str, object]) -> AsyncIterator[list[GatewayProcess]]:
    processes = [GatewayProcess(upstream.url, **settings) for _ in range(2)]
    yield processes
    for process in processes:
        await process.kill()


@pytest.mark.parametrize("step", STEPS)
async def test_a_gateway_killed_at_any_step_leaves_at_most_one_job(
    upstream: ScriptedUpstream, gateways: list[GatewayProcess], step: str, request: pytest.FixtureRequest
) -> None:
    first, second = gateways
    request_id = request.node.name

    async def kill_now(connection: Connection) -> None:
        first.signal(signal.SIGKILL)
        await connection.gone()

    created = answer(201, {"uid": JOB})
    upstream.script.extend([kill_now, created] if step == "during_post" else [created])
    await first.start(step)
    assert (await send(first.address, request_id)).reason in ("UNAVAILABLE", "CANCELLED")
    assert await first.died() == -signal.SIGKILL
    await second.start()
    again = [await send(second.address, request_id) for _ in range(2)]
    posts, true_answers = EXPECTED[step]
    assert len(upstream.requests("POST")) == posts
    for number, each in enumerate(again):
        if each.reason:
            told = each.reason
        else:
            assert each.uid == JOB
            told = REPLAYED if each.replayed else NEW
        assert told in (true_answers if number == 0 else (true_answers - {NEW} or {REPLAYED}))


async def test_a_gateway_suspended_beyond_its_claim_sends_one_job(
    upstream: ScriptedUpstream, gateways: list[GatewayProcess], request: pytest.FixtureRequest
) -> None:
    first, second = gateways
    request_id = request.node.name
    await first.start()
    await second.start()

    async def suspend(connection: Connection) -> None:
        first.signal(signal.SIGSTOP)
        await connection.send(answer(201, {"uid": JOB}))

    upstream.script.extend([suspend])
    calls = [asyncio.create_task(send(first.address, request_id))]
    await upstream.wait_for(1, "POST")
    assert (await send(second.address, request_id)).reason == UNKNOWN
    first.signal(signal.SIGCONT)
    (late,) = await asyncio.gather(*calls)
    # Its own time limit may have passed as well.
    assert late.uid == JOB or late.reason == UNKNOWN
    again = await send(second.address, request_id)
    assert again.uid == late.uid or again.reason == UNKNOWN
    assert len(upstream.requests("POST")) == 1
