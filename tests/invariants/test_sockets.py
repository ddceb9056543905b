"""Random runs against the promises, over real sockets."""

from __future__ import annotations

import os

import pytest
from jobgateway.v1 import job_service_pb2 as pb

from tests.invariants.checks import violations
from tests.invariants.history import read_event
from tests.invariants.multiplexed import violations as violations_of_streams
from tests.invariants.multiplexed_sockets import MultiplexedSocketRun
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


@pytest.mark.parametrize("seed", parse(SEEDS))
async def test_each_job_of_a_stream_keeps_every_promise_over_sockets(seed: int) -> None:
    run = MultiplexedSocketRun(seed)
    await run.start()
    for _ in range(STEPS):
        await run.step()
    await run.finish()
    assert violations_of_streams(run.streams, run.history) == {}
    assert len(run.faults) >= 3, "the run had failures of several kinds"
    assert any(len(stream.watches) > 5 for stream in run.streams)


def test_a_client_keeps_its_chunks_while_the_job_still_runs() -> None:
    """A watch that resumes with another credential after the chunks may get a running state before the end."""
    content = bytearray()
    events = [
        pb.JobEvent(content_chunk=pb.ContentChunk(offset=0, data=b"{}")),
        pb.JobEvent(job=pb.Job(uid=42)),
        pb.JobEvent(job=pb.Job(uid=42, done=True, content_omitted=True)),
    ]
    assert [read_event(event, content, 0.0).held for event in events] == [b"{}"] * 3
