from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from gateway.simulator import Simulator
from tests.support.gateways import TOKEN, running, stub
from tests.support.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server import Gateway


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[dict[str, object]]]:
    """What was logged, as a list of events."""
    with structlog.testing.capture_logs() as events:
        yield events  # type: ignore[misc]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """A scripted upstream on a real socket."""
    server = ScriptedUpstream()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway in front of the scripted upstream."""
    async with running(upstream.url) as server:
        yield server


@pytest.fixture
async def jobs(gateway: Gateway) -> AsyncIterator[rpc.JobServiceAsyncStub]:
    """A stub of the gateway in front of the scripted upstream."""
    async with stub(gateway) as service:
        yield service


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """The embedded upstream on a real socket."""
    server = Simulator(tokens=frozenset({TOKEN}))
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop()
