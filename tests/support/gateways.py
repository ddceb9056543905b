"""A gateway on real sockets, stubs to call it, and the errors of calls."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.config import Settings
from gateway.server.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from grpc.aio import Channel

    from gateway.clock import Clock
    from gateway.rpc.tracing import Tracer
    from tests.support.certificates import Certificate

TOKEN = "vktrpat_a-token-for-tests"
BEARER = (("authorization", f"Bearer {TOKEN}"),)
SEND = pb.SendJobRequest(workspace_id="1", entity_id=7)
GET_JOB = pb.GetJobRequest(uid=42)
# The window of a client that does not read stays small. Otherwise it grows with the delays of a busy machine.
STEADY = (("grpc.http2.bdp_probe", 0),)


@asynccontextmanager
async def running(
    upstream_url: str, tracer: Tracer | None = None, clock: Clock | None = None, /, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway that polls every 10 ms and has no rate limits, unless `settings` change that."""
    quick = {"poll_interval_min_seconds": 0.01, "poll_interval_max_seconds": 0.01}
    quick |= dict.fromkeys(("calls_per_second", "polls_per_second", "submissions_per_second"), 100_000.0)
    free = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    gateway = Gateway(Settings(upstream_url=upstream_url, **(free | quick | settings)), tracer, clock)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop(grace=0)


@asynccontextmanager
async def tls_channel(gateway: Gateway, ca: bytes, certificate: Certificate | None = None) -> AsyncIterator[Channel]:
    """Open a TLS channel on a new connection, with the client's `certificate` if there is one."""
    own = {"certificate_chain": certificate.chain, "private_key": certificate.key} if certificate else {}
    credentials = grpc.ssl_channel_credentials(ca, **own)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(gateway.address, credentials, options=options) as channel:
        yield channel


@asynccontextmanager
async def stub(gateway: Gateway) -> AsyncIterator[rpc.JobServiceAsyncStub]:
    """Open a channel, and return an async stub."""
    async with grpc.aio.insecure_channel(gateway.address, STEADY) as channel:
        yield rpc.JobServiceStub(channel)


class Failure:
    """An error as a client sees it: status, details and trailers."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        self.trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status()
        status.ParseFromString(self.trailers["grpc-status-details-bin"])
        assert status.code == self.code.value[0]
        assert status.message == self.message
        self.details = list(status.details)
        self.info = self._only(error_details_pb2.ErrorInfo)
        assert self.info.domain == "jobgateway"
        self.reason = self.info.reason
        self.metadata = dict(self.info.metadata)
        self.retry = self._maybe(error_details_pb2.RetryInfo)
        self.resource = self._maybe(error_details_pb2.ResourceInfo)
        bad = self._maybe(error_details_pb2.BadRequest)
        self.violations = {each.field: each.description for each in bad.field_violations} if bad else {}

    def _maybe(self, kind: Any) -> Any:
        found = [detail for detail in self.details if detail.Is(kind.DESCRIPTOR)]
        if not found:
            return None
        assert len(found) == 1
        message = kind()
        found[0].Unpack(message)
        return message

    def _only(self, kind: Any) -> Any:
        message = self._maybe(kind)
        assert message is not None
        return message


async def expect_error(call: Any) -> Failure:
    """Await a call, or read a stream to its end, and return the error that it ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call if inspect.isawaitable(call) else read_all(call))
    return Failure(raised.value)


async def reach_deadline(call: Callable[[float], Any], has_begun: Callable[[], bool]) -> None:
    """Make a call that ends at its deadline only, with a longer one until it has begun: a busy machine takes longer.

    Args:
        call: Makes a call with a deadline, in seconds.
        has_begun: Returns whether a call came as far as the test needs.
    """
    seconds = 0.1
    while not has_begun():
        seconds *= 2
        made = call(seconds)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (made if inspect.isawaitable(made) else read_all(made))
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def next_event(stream: Any) -> pb.JobEvent:
    """Return the next event of a stream, which must not have ended."""
    event = await stream.read()
    assert isinstance(event, pb.JobEvent)
    return event


async def read_all(stream: Any) -> list[Any]:
    """Return the rest of a stream's messages."""
    messages = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages
