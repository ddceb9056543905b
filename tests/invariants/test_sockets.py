from __future__ import annotations

import os

import pytest

from tests.invariants.checks import violations
from tests.invariants.sockets import SocketRun
from tests.invariants.test_stepped import parse

pytestmark = pytest.mark.slow

SEEDS = os.environ.get("PROMISES_SOCKET_SEEDS", "0-1")
STEPS = 150


@pytest.mark.parametrize("seed", parse(SEEDS))
async def test_every_promise_holds_over_real_sockets(seed: int) -> None:
    run = SocketRun(seed)
    await run.start()
    for _ in range(STEPS):
        await run.step()
    await run.finish()
    assert violations(run.history) == {}
    assert len(run.faults) >= 3, "the run had failures of several kinds"
