"""Random runs against the promises, in simulated time."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gateway.rpc.codec import events
from tests.invariants.checks import violations
from tests.invariants.stepped import SteppedRun

# For more seeds, or to replay one: PROMISES_SEEDS=0-999, PROMISES_SEEDS=7
SEEDS = os.environ.get("PROMISES_SEEDS", "0-11")
STEPS = 400


def parse(seeds: str) -> range:
    """Read seeds such as 7 or 0-99."""
    first, _, last = seeds.partition("-")
    return range(int(first), int(last or first) + 1)


def by_tier(seeds: range) -> list[Any]:
    """Return the first three seeds for the quick tests, and the others for the slow ones."""
    return [*seeds[:3], *(pytest.param(seed, marks=pytest.mark.slow) for seed in seeds[3:])]


@pytest.mark.parametrize("seed", by_tier(parse(SEEDS)))
async def test_every_promise_holds_over_simulated_hours(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small results in several chunks, because large ones are encoded in a thread, outside of the stepped clock.
    monkeypatch.setattr(events, "CHUNK_BYTES", 40)
    run = SteppedRun(seed)
    for _ in range(STEPS):
        await run.step()
    await run.finish()
    assert violations(run.history) == {}
    assert len(run.faults) >= 3, "the run had failures of several kinds"
