"""The judge of repeated calls, and the times that the proxy reads: each deviation of a client must be found."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from clients.runner import attempts, recovering
from clients.runner.calls import Call, End, JobRetry, Lifetime
from clients.runner.documented_errors import FailingGateway, documented_errors
from clients.runner.recovering import RecoveringGateway
from clients.runner.scenarios import Scenario
from clients.runner.scripted import ScriptedGateway
from clients.runner.short_scripts import ShortGateway
from tests.support.redis import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WATCH = Scenario(name="made_up", about="", steps=[{"do": "watch", "heartbeat_seconds": 1}], expect=[])
EACH = Scenario(name="made_up", about="", steps=[{"do": "watch_each", "heartbeat_seconds": 1}], expect=[])
OPEN = [Lifetime(number, 0) for number in range(2)]
OUTAGE: dict[str, Any] = {"code": 14, "reason": "UPSTREAM_OUTAGE"}


def watch(start: float, connection: int = 0, **more: Any) -> Call:
    return Call("WatchJob", "7", ("7",), connection=connection, start=start, **more)


def get(start: float, **more: Any) -> Call:
    return Call("GetJob", "7", ("7",), start=start, **more)


def wait(start: float, timeout: float | None, **more: Any) -> Call:
    return Call("WaitJob", "7", ("7",), timeout_seconds=timeout, start=start, **more)


def all_jobs(start: float, connection: int = 0, **more: Any) -> Call:
    return Call("WatchJobs", "", (), connection=connection, start=start, heard=start, **more)


def ended(count: int, call: Callable[..., Call], **end: Any) -> list[Call]:
    return [call(5 * second, end=End(5 * second, **end)) for second in range(count)]


DEFECT: dict[str, Any] = {"code": 13, "reason": "UPSTREAM_ERROR"}


def found(*calls: Call, scenario: Scenario = WATCH, connections: list[Lifetime] = OPEN) -> str:
    return "\n".join(attempts.problems(scenario, list(calls), connections))


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        # Waits, which double, and are as long as RetryInfo asks for.
        ([watch(0, heard=1, end=End(1)), watch(1.12, 1)], ""),
        ([watch(0, heard=1, end=End(1)), watch(1.05, 1)], "WatchJob came after 0.050 s, and must wait 0.100 s"),
        ([watch(0, heard=1, end=End(1, **OUTAGE, retry_seconds=2)), watch(2.5)], "must wait 2.000 s"),
        ([watch(0, heard=1, end=End(1)), watch(1.2, 1, heard=1.3, end=End(1.3)), watch(1.45, 0)], "must wait 0.200 s"),
        # A stream that may have worked for more than five seconds resets the wait.
        ([watch(0, heard=1, end=End(1)), watch(1.2, 1, heard=7, end=End(7)), watch(7.15, 0)], ""),
        # A library's own repetition, and another watch of the job.
        ([watch(0, end=End(1)), watch(1.01, 0)], ""),
        ([watch(0, heard=1, end=End(1)), watch(1.01, 1, by_library=True)], ""),
        ([watch(0, heard=1, end=End(1, code=0)), watch(1.01)], ""),
        # Silence.
        ([watch(0, heard=1, end=End(4, by_client=True)), watch(4.2, 1)], ""),
        ([watch(0, heard=1, end=End(2.2, by_client=True)), watch(2.4, 1)], "replaced a stream after 1.400 s"),
        ([watch(0, heard=1), watch(4.2)], "came on connection 0 again"),
        # Connections.
        ([watch(0, heard=1, end=End(1)), watch(1.2)], "came on connection 0 again"),
        ([watch(0, heard=1, end=End(1, code=14, reason="DRAINING")), watch(1.2)], "came on connection 0 again"),
        ([watch(0, heard=1, end=End(1, **OUTAGE)), watch(1.2)], ""),
        ([watch(0, heard=1, end=End(1, **OUTAGE)), watch(1.2, 1)], "but connection 0 worked"),
        # Calls without a stream.
        ([get(0, end=End(1, code=13)), get(1.2)], ""),
        ([get(0, end=End(1, code=13)), get(1.05)], "GetJob came after 0.050 s"),
        ([get(0, end=End(1, code=8, retry_seconds=1)), get(1.9, by_library=True)], "must wait 1.000 s"),
        ([get(0, end=End(1, code=16)), get(1.01)], ""),
        ([get(0, end=End(1, code=0)), get(1.01)], ""),
        # Their number: that of a library, of a login and of a wait in an outage is not limited.
        (ended(5, get, **DEFECT), ""),
        (ended(6, get, **DEFECT), "GetJob came more than 5 times"),
        (ended(6, functools.partial(get, by_library=True), **DEFECT), ""),
        ([*ended(4, get, **DEFECT), get(20, end=End(20, code=0)), get(25, end=End(25, **DEFECT)), get(30)], ""),
        ([get(0, end=End(0, code=16)), *ended(6, get, **DEFECT)[1:]], ""),
        (ended(6, functools.partial(wait, timeout=None), **DEFECT), "WaitJob came more than 5 times"),
        (ended(6, functools.partial(wait, timeout=None), code=14, reason="NO_STATE_YET"), ""),
        (ended(6, functools.partial(wait, timeout=None), code=13), ""),
        (ended(6, functools.partial(wait, timeout=None), code=8, reason="LIMIT_REACHED", retry_seconds=1), ""),
        (ended(6, functools.partial(wait, timeout=None), code=8, reason="TOO_LARGE"), "more than 5 times"),
        # The time limit of a wait.
        ([wait(0, 9, end=End(1, code=14)), wait(1.2, 7.8)], ""),
        ([wait(0, 9, end=End(1, code=14)), wait(1.2, 9)], "WaitJob has a timeout of 9 s, and at most 8.900 s are left"),
        ([wait(0, 9, end=End(1, code=14)), wait(1.2, None)], "WaitJob has a timeout of None s"),
        ([wait(0, 9, end=End(1, code=14, retry_seconds=2)), wait(3.2, 7.5)], "at most 7.000 s are left"),
        ([wait(0, 9, end=End(1, code=14)), wait(1.2, 9, by_library=True)], ""),
        ([wait(0, 9, end=End(9, code=0)), wait(9.1, 9)], ""),
        ([wait(0, 9, end=End(0, code=16)), wait(0.01, 8.99)], ""),
        # The end of the last stream for many jobs.
        ([all_jobs(0, half_closed=1, end=End(1.1, code=0))], ""),
        ([all_jobs(0, half_closed=1, end=End(6, by_client=True))], ""),
        (
            [all_jobs(0, half_closed=1, end=End(1.1, by_client=True))],
            "left its last stream 0.100 s after it half-closed",
        ),
        ([all_jobs(0, end=End(1, by_client=True))], "left its last stream without half-closing it"),
        ([all_jobs(0)], "left its last stream without half-closing it"),
        ([all_jobs(0, end=End(60, by_client=True)), all_jobs(61, 1, end=End(62, code=0))], ""),
    ],
)
def test_a_bad_repetition_is_detected(calls: list[Call], problem: str) -> None:
    assert problem in found(*calls)
    assert bool(problem) == bool(found(*calls))


def test_a_stream_may_be_left_for_a_login() -> None:
    streams = [all_jobs(0), all_jobs(0.2, end=End(1, code=0))]
    assert len(found(*streams).splitlines()) == 2
    streams[0].rejected = True
    assert not found(*streams)


def test_a_shared_connection_may_be_replaced_by_another_watch() -> None:
    calls = [watch(0, heard=1, end=End(1, **OUTAGE)), watch(1.2, 1)]
    assert found(*calls, scenario=EACH) == ""


def test_a_connection_that_broke_may_be_replaced() -> None:
    calls = [watch(0, heard=1, end=End(1, **OUTAGE)), watch(1.2, 1)]
    assert found(*calls, connections=[Lifetime(0, 0, closed=1.1), Lifetime(1, 1.15)]) == ""


def test_connections_that_stay_open_are_detected() -> None:
    last = watch(0, heard=1, end=End(1, code=0))
    four = [Lifetime(number, 0) for number in range(4)]
    assert found(last, connections=four) == "the client had 3 unused connections at the end, more than 2"
    assert found(last, connections=[*four[:3], dataclasses.replace(four[3], closed=0.9)]) == ""


def test_calls_may_end_on_a_connection_that_others_replaced() -> None:
    four = [Lifetime(number, 0) for number in range(4)]
    calls = [watch(0, number, heard=1, end=End(2 + number, code=0)) for number in range(4)]
    assert found(*calls, scenario=EACH, connections=four) == ""


def test_a_job_that_is_watched_again_too_early_is_detected() -> None:
    call = all_jobs(0, end=End(3, code=0), retries=[JobRetry(7, 1, 2, again=2.5), JobRetry(8, 1, 0, again=1.2)])
    assert found(call) == "the job 7 was watched again after 1.500 s, and must wait 2.000 s"


@pytest.mark.parametrize("grown", [False, True])
def test_a_backoff_that_is_not_reset_is_detected(grown: bool) -> None:
    calls, now, waits = list[Call](), 0.0, [0.15, 0.3, 0.6, 1.2, *([2.4, 3.7, 3.7] if grown else [0.15, 0.3, 0.6]), 0]
    for number, wait in enumerate(waits):
        heard = now + (5.1 if number == 4 else 0.1)
        calls.append(watch(now, heard=heard, end=End(heard, **OUTAGE)))
        now = heard + wait
    assert ("the backoff was not reset" in found(*calls)) is grown


async def test_the_proxy_reads_statuses_and_waits() -> None:
    limit = next(each for each in documented_errors() if each.code == "RESOURCE_EXHAUSTED" and each.action == "retry")
    async with FailingGateway() as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        send = rpc.JobServiceStub(channel).SendJob
        with pytest.raises(grpc.aio.AioRpcError):
            await send(pb.SendJobRequest(request_id=limit.request_id))
        await send(pb.SendJobRequest(request_id=limit.request_id))
        failed, repeated = gateway.calls
        assert failed.end is not None
        assert (failed.end.code, failed.end.reason, failed.end.retry_seconds) == (8, limit.reason, 0.1)
        assert (repeated.request_id, repeated.connection) == (failed.request_id, failed.connection)
        assert failed.start < failed.end.time < repeated.start
        assert repeated.end is not None
        assert repeated.end.code == 0
        assert "SendJob came after" in "\n".join(attempts.problems(WATCH, gateway.calls, gateway.connections))


async def test_the_proxy_reads_cancelled_calls() -> None:
    async with RecoveringGateway() as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=recovering.UID))
        await call.read()
        (read,) = gateway.calls
        call.cancel()

        async def ended() -> bool:
            return read.end is not None

        await eventually(ended)
    assert (read.uid, read.heard is not None) == ("7", True)
    assert read.end is not None


class Patient(ScriptedGateway):
    """A gateway that ends a stream for many jobs when the client half-closes it."""

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        async def watch(requests: AsyncIterator[Any], _: object) -> None:
            async for _ in requests:
                pass

        encode = pb.JobEvent.SerializeToString
        return {"WatchJobs": grpc.stream_stream_rpc_method_handler(watch, pb.WatchJobsRequest.FromString, encode)}


@pytest.mark.parametrize("half_closes", [True, False])
async def test_the_proxy_reads_the_end_of_requests(half_closes: bool) -> None:
    async with Patient() as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        call = rpc.JobServiceStub(channel).WatchJobs()
        await call.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=7)))

        async def arrived() -> bool:
            return bool(gateway.calls)

        await eventually(arrived)
        if half_closes:
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
        else:
            call.cancel()
        assert (gateway.calls[0].half_closed is not None) is half_closes
        assert bool(found(*gateway.calls)) is not half_closes


async def test_the_proxy_reads_the_timeout_of_a_wait() -> None:
    async with ShortGateway("no_state_yet") as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        for request in (pb.WaitJobRequest(uid=7, timeout=Duration(seconds=1, nanos=500_000_000)), pb.WaitJobRequest()):
            await rpc.JobServiceStub(channel).WaitJob(request).code()
        assert [call.timeout_seconds for call in gateway.calls] == [1.5, None]
