"""The sync and the asyncio client against a scripted gateway over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from jobgateway_client import AsyncClient, Client, GatewayError, Retry, Tls, TlsFileError, rules
from jobgateway_client.calls import channel_options

from clients.runner.proxy import Proxy
from tests.clients_python.conftest import Both
from tests.support.certificates import Authority
from tests.support.client_gateway import Fail, Hold, Replayed, ScriptedGateway, end, state

CODE = grpc.StatusCode


JOB = pb.Job(uid=7, status=pb.JOB_STATUS_RUNNING)
SEND = pb.SendJobRequest(workspace_id="1", entity_id=7)
SEND_ONCE = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="once")


async def test_a_send_with_a_request_id_is_repeated(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[Fail(CODE.INTERNAL)], [Fail(CODE.UNAVAILABLE, "DRAINING")], [JOB]]
    retried: list[Retry] = []
    job = await both.use(gateway.target, lambda client: client.send(SEND_ONCE, on_retry=retried.append), token="t")
    assert job.uid == 7
    assert [request.request_id for _, request in gateway.calls] == ["once"] * 3
    assert [retry.error.reason for retry in retried] == ["", "DRAINING"]
    assert len(set(gateway.peers)) == 3


@pytest.mark.parametrize("replayed", [True, False])
async def test_a_client_sees_that_a_response_is_replayed(
    gateway: ScriptedGateway, both: Both, *, replayed: bool
) -> None:
    trailer = [Replayed()] if replayed else []
    gateway.script = [[*trailer, JOB], [*trailer, state(1), end()]]
    told: list[bool] = []
    await both.use(gateway.target, lambda client: client.send(SEND_ONCE, on_replayed=lambda: told.append(True)))
    watches: list[Any] = []

    def run(client: Any) -> Any:
        watches.append(client.run(SEND_ONCE))
        return watches[0]

    await both.use(gateway.target, run)
    assert (bool(told), watches[0].replayed) == (replayed, replayed)


async def test_a_broken_send_without_an_id_is_not_repeated(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE)], [JOB]]
    with pytest.raises(GatewayError) as caught:
        await both.use(gateway.target, lambda client: client.send(SEND))
    assert caught.value.code is CODE.UNAVAILABLE
    assert len(gateway.calls) == 1


async def test_an_error_has_its_details(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[Fail(CODE.INVALID_ARGUMENT, "REQUEST_INVALID", uid=9, retry=0.5)]]
    with pytest.raises(GatewayError, match=r"it failed \[INVALID_ARGUMENT, REQUEST_INVALID\]") as caught:
        await both.use(gateway.target, lambda client: client.get(7))
    error = caught.value
    assert (error.code, error.reason, error.uid, error.retry_delay) == (
        CODE.INVALID_ARGUMENT,
        "REQUEST_INVALID",
        9,
        0.5,
    )
    assert error.fields == (("a.b", "is wrong"),)


async def test_calls_about_a_job_carry_its_uid_and_the_token(gateway: ScriptedGateway, both: Both) -> None:
    done = pb.Job(uid=7, done=True)
    gateway.script = [[JOB], [JOB], [done], [JOB], [end()]]
    for action in (
        lambda client: client.send(SEND),
        lambda client: client.get(7),
        lambda client: client.wait(7),
        lambda client: client.cancel(7),
        lambda client: client.watch(7),
    ):
        await both.use(gateway.target, action, token=lambda: "secret")
    assert [each.get("x-job-uid") for each in gateway.metadata] == [None, "7", "7", "7", "7"]
    assert {each["authorization"] for each in gateway.metadata} == {"Bearer secret"}


async def test_a_wait_calls_until_the_job_is_done(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[JOB], [JOB], [pb.Job(uid=7, done=True)]]
    job = await both.use(gateway.target, lambda client: client.wait(7))
    assert job.done
    assert len(gateway.calls) == 3


async def test_a_run_resumes_as_a_watch(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[state(10, "first"), Fail(CODE.UNAVAILABLE)], [], [state(50, "second"), end()]]
    states: list[float] = []
    finished = await both.use(
        gateway.target, lambda client: client.run(SEND, on_progress=lambda job: states.append(job.progress.percentage))
    )
    assert finished.succeeded
    assert [name for name, _ in gateway.calls] == ["RunJob", "WatchJob", "WatchJob"]
    assert [(each.uid, each.resume_token) for _, each in gateway.calls[1:]] == [(7, "first")] * 2
    assert [each.get("x-job-uid") for each in gateway.metadata] == [None, "7", "7"]
    assert states == [10, 50, 0]


async def test_a_run_whose_error_names_the_job_is_watched(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "DRAINING", uid=7)], [end()]]
    assert (await both.use(gateway.target, lambda client: client.run(SEND))).succeeded
    assert [name for name, _ in gateway.calls] == ["RunJob", "WatchJob"]


async def test_a_login_does_not_send_a_job_again_that_exists(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[Fail(CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", uid=7)], [end()]]
    tokens = iter(["stale", "fresh"])
    assert (await both.use(gateway.target, lambda client: client.run(SEND), token=lambda: next(tokens))).succeeded
    assert [name for name, _ in gateway.calls] == ["RunJob", "WatchJob"]


async def test_a_silent_stream_is_resumed_elsewhere(
    gateway: ScriptedGateway, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LEAST_SILENCE", 0.3)
    request = pb.WatchJobRequest(uid=7, heartbeat_interval=Duration(nanos=100_000_000))
    # On a busy machine, more streams may be silent for 0.3 seconds.
    gateway.script = [[state(10, "first"), Hold()], *([[end()]] * 1_000)]
    retried: list[Retry] = []
    await both.use(gateway.target, lambda client: client.watch(request, on_retry=retried.append))
    assert {retry.error.silent for retry in retried} == {True}
    assert len(set(gateway.peers)) == len(gateway.peers) > 1


async def test_a_fresh_token_is_asked_for_once(gateway: ScriptedGateway, both: Both) -> None:
    refused = Fail(CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED")
    tokens = iter(["stale", "fresh"])
    gateway.script = [[refused], [end()]]
    await both.use(gateway.target, lambda client: client.watch(7), token=lambda: next(tokens))
    assert [each["authorization"] for each in gateway.metadata] == ["Bearer stale", "Bearer fresh"]


@pytest.mark.parametrize("static", [True, False])
async def test_without_another_token_a_refusal_is_final(gateway: ScriptedGateway, both: Both, static: bool) -> None:
    gateway.script = [[Fail(CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED")], [JOB]]
    source = "only" if static else iter(["only", None]).__next__
    with pytest.raises(GatewayError):
        await both.use(gateway.target, lambda client: client.get(7), token=source)
    assert len(gateway.calls) == 1


async def test_a_deadline_covers_all_streams_of_a_watch(gateway: ScriptedGateway, both: Both) -> None:
    gateway.script = [[state(10), Fail(CODE.UNAVAILABLE, "DRAINING", retry=90)], [end()]]
    with pytest.raises(GatewayError, match="no time is left") as caught:
        await both.use(gateway.target, lambda client: client.watch(7, timeout=80))
    assert caught.value.code is CODE.DEADLINE_EXCEEDED


async def test_an_error_of_a_callback_ends_the_watch(gateway: ScriptedGateway, both: Both) -> None:
    def stop(_: Retry) -> None:
        raise RuntimeError("enough")

    gateway.script = [[state(10), Fail(CODE.UNAVAILABLE)], [end()]]
    with pytest.raises(RuntimeError, match="enough"):
        await both.use(gateway.target, lambda client: client.watch(7, on_retry=stop))
    assert len(gateway.calls) == 1


async def test_an_error_of_a_callback_is_not_that_of_the_stream(gateway: ScriptedGateway, both: Both) -> None:
    def stop(_: pb.Job) -> None:
        raise GatewayError(CODE.UNAVAILABLE, "enough")

    gateway.script = [[state(10), Hold()], [end()]]
    with pytest.raises(GatewayError, match="enough"):
        await both.use(gateway.target, lambda client: client.watch(7, on_progress=stop))
    assert len(gateway.calls) == 1


async def test_a_broken_watch_does_not_end_its_neighbours(gateway: ScriptedGateway) -> None:
    resumed = asyncio.Event()
    gateway.script = [[state(10), resumed, end()], [state(10), Fail(CODE.INTERNAL)], [end()]]
    async with AsyncClient(gateway.target) as client:
        neighbour = client.watch(7)
        await anext(neighbour)
        assert (await client.watch(7).finish()).succeeded
        # The neighbour still reads from the old connection.
        resumed.set()
        assert (await neighbour.finish()).succeeded
    assert len(gateway.calls) == 3
    assert len(set(gateway.peers)) == 2


async def test_closing_a_client_ends_its_watches_with_an_error(gateway: ScriptedGateway) -> None:
    gateway.script = [[state(10), Hold()]] * 2
    async with AsyncClient(gateway.target) as client:
        watch = client.watch(7)
        await anext(watch)
        reading = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
    with pytest.raises(GatewayError):
        await reading

    def in_thread() -> None:
        with Client(gateway.target) as client:
            watch = client.watch(7)
            next(watch)
            client.close()
            next(watch)

    with pytest.raises(GatewayError):
        await asyncio.to_thread(in_thread)


async def test_mutual_tls_is_used(both: Both, tmp_path: Path) -> None:
    authority = Authority()
    server, own = authority.server(), authority.client("billing")
    servicer = ScriptedGateway()
    credentials = grpc.ssl_server_credentials([(server.key, server.chain)], authority.pem, require_client_auth=True)
    servicer.target = f"localhost:{servicer.server.add_secure_port('127.0.0.1:0', credentials)}"
    await servicer.server.start()
    files = {"ca_file": authority.pem, "cert_file": own.chain, "key_file": own.key}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    tls = Tls.from_files(**{name: tmp_path / name for name in files})
    assert "PRIVATE" not in repr(tls)
    servicer.script = [[JOB], [JOB], [JOB]]
    for given in (tls, tls.credentials()):
        assert (await both.use(servicer.target, lambda client: client.get(7), tls=given)).uid == 7
    with pytest.raises(GatewayError) as caught:
        await both.use(servicer.target, lambda client: client.get(7), tls=Tls(ca=authority.pem), attempts=1)
    assert caught.value.code is CODE.UNAVAILABLE
    assert len(servicer.calls) == 2
    await servicer.server.stop(None)


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_a_tls_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("junk")
    cert = tmp_path / "cert"
    cert.write_bytes(Authority().client("billing").chain)
    others: dict[str, Any] = {} if name == "ca_file" else {"cert_file": cert, "key_file": file}
    with pytest.raises(TlsFileError, match=name):
        Tls.from_files(**{**others, name: file})
    with pytest.raises(TlsFileError, match="cannot be read"):
        Tls.from_files(**{**others, name: tmp_path / "nowhere"})


async def test_keepalive_ends_a_call_over_a_dead_connection(gateway: ScriptedGateway) -> None:
    # A tenth of its times. Without the timeout for pings, the C core takes a minute.
    options = [
        (name, value // 10 if name.endswith("_ms") and isinstance(value, int) else value)
        for name, value in channel_options(None, ())
    ]
    gateway.script = [[state(10), Hold()]]
    host, _, port = gateway.target.partition(":")
    async with (
        Proxy((host, int(port))) as proxy,
        grpc.aio.insecure_channel(proxy.address, options) as channel,
        asyncio.timeout(50),
    ):
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=7))
        await call.read()
        proxy.blackhole()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is CODE.UNAVAILABLE
