"""Random runs of streams of many jobs against the promises, in simulated time."""

from __future__ import annotations

import pytest

from gateway.rpc.codec import events
from tests.invariants.multiplexed import violations
from tests.invariants.multiplexed_stepped import MultiplexedRun
from tests.invariants.test_stepped import SEEDS, STEPS, by_tier, parse


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("seed", by_tier(parse(SEEDS)))
async def test_each_job_of_a_stream_keeps_every_promise(
    seed: int, monkeypatch: pytest.MonkeyPatch, *, paced: bool
) -> None:
    # Small results in several chunks, because large ones are encoded in a thread, outside of the stepped clock.
    monkeypatch.setattr(events, "CHUNK_BYTES", 40)
    run = MultiplexedRun(seed, paced=paced)
    for _ in range(STEPS):
        await run.step()
    await run.finish()
    assert violations(run.streams, run.history) == {}
    assert len(run.faults) >= 3, "the run had failures of several kinds"
    assert any(len(stream.watches) > 5 for stream in run.streams)
