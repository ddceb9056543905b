"""The transport to the upstream as tests use it: with a stepped clock, patient, and unobserved."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from gateway.errors import UpstreamError
from gateway.limits.fair_budget import FairBudget
from gateway.rpc.status import mapping_for
from gateway.upstream import Timeouts, Transport, UpstreamHealth
from gateway.upstream.transport import HttpResponse
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from gateway.clock import Clock, PauseTimeout

# In seconds: a limit that only a test of this limit reaches.
PATIENT = 3600.0
# How long a test waits for an exchange to fail, in seconds.
TEST_SECONDS = 30.0


class PatientTransport(Transport):
    """A transport whose time only passes when a test advances `clock`. Options are in seconds of that clock.

    A test advances it after the event that the time must follow, so that the load of the machine does not count.
    """

    def __init__(
        self,
        *,
        connect: float = PATIENT,
        read: float = PATIENT,
        total: float = PATIENT,
        idle: float = PATIENT,
        max_connections: int = 10,
        max_response_bytes: int = 64 << 20,
        budget: FairBudget | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        abandoned: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.clock = SteppedClock()
        super().__init__(
            self.clock,
            timeouts=Timeouts(connect, read, total),
            idle_seconds=idle,
            max_connections=max_connections,
            max_response_bytes=max_response_bytes,
            budget=FairBudget(2 * max_response_bytes) if budget is None else budget,
            tls=ssl.create_default_context() if tls is None else tls,
            proxy=proxy,
            observer=NoObserver(),
            abandoned=abandoned,
        )

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        owner: bytes = b"",
        pause: PauseTimeout = nullcontext,
    ) -> HttpResponse:
        """Send a request that no caller has to pay for."""
        return await super().request(method, url, headers, body, owner=owner, pause=pause)


# Makes transports with the options of `PatientTransport`.
MakeTransport = Callable[..., PatientTransport]


async def failure(exchange: Awaitable[object]) -> UpstreamError:
    """Return the error of an exchange."""
    with pytest.raises(UpstreamError) as raised:
        async with asyncio.timeout(TEST_SECONDS):
            await exchange
    return raised.value


class NoObserver:
    """Ignores all exchanges."""

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        """Ignore an exchange."""


def upstream_health(clock: Clock, failing_loops: Callable[[], int] = lambda: 0) -> UpstreamHealth:
    """Return the health of an upstream that nothing is known about."""
    return UpstreamHealth(clock, reason_of=lambda error: mapping_for(error).reason, failing_loops=failing_loops)


def http_response(status: int, body: bytes = b"", *, retry_after: str | None = None) -> HttpResponse:
    """Return a small response."""
    return HttpResponse(status, body, retry_after=retry_after, reservation=None, location=None)
