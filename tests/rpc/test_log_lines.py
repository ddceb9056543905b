"""The lines of the log that say who called, what was submitted, and how each watch ended."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.auth.peer import MAX_SHOWN_PEER, address_of, printable
from gateway.rpc.metadata import read_user_agent
from gateway.rpc.status import BY_ERROR, BY_HTTP_STATUS, OTHER_4XX, OTHER_5XX, Fault
from gateway.text import CUT_MARK
from tests.support.gateways import BEARER, GET_JOB, expect_error, read_all, running, stub, tls_channel
from tests.support.paths import ROOT
from tests.support.upstream import DONE, RUNNING, answer

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.server.gateway import Gateway
    from tests.support.certificates import Authority, MountedSecret
    from tests.support.upstream import ScriptedUpstream

    Logged = list[dict[str, Any]]

BOB = (("authorization", "Bearer the-token-of-bob"),)
NOT_FOUND = answer(404, {"detail": "not here"})


def lines(logged: Logged, event: str, *fields: str) -> list[Any]:
    """Return the lines of an event, or these fields of each."""
    found = [line for line in logged if line["event"] == event]
    return [tuple(line.get(field) for field in fields) for line in found] if fields else found


# The client


async def test_a_line_names_the_client(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged
) -> None:
    upstream.script += [RUNNING] * 3
    for metadata in (BEARER, BEARER, BOB):
        await jobs.GetJob(GET_JOB, metadata=metadata)
    mine, again, other = lines(logged, "call")
    assert re.fullmatch("[0-9a-f]{8}", mine["client"])
    assert (mine["client"] == again["client"], mine["client"] == other["client"]) == (True, False)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", mine["address"])
    assert mine["address"] == other["address"]
    assert mine["user_agent"].startswith("grpc-python-asyncio/")


async def test_a_call_without_a_credential_has_what_is_known(jobs: rpc.JobServiceAsyncStub, logged: Logged) -> None:
    await expect_error(jobs.GetJob(GET_JOB))
    (line,) = lines(logged, "call")
    assert line["address"].startswith("127.0.0.1:")
    assert line["user_agent"].startswith("grpc-python-asyncio/")
    assert "client" not in line


async def test_the_name_of_a_client_is_cut(gateway: Gateway, upstream: ScriptedUpstream, logged: Logged) -> None:
    upstream.script.append(RUNNING)
    options = (("grpc.primary_user_agent", "x" * 1_000), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(gateway.address, options) as channel:
        await rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
    (line,) = lines(logged, "call")
    assert line["user_agent"] == "x" * (MAX_SHOWN_PEER - len(CUT_MARK)) + CUT_MARK


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([b"bytes"], ""), (["a\x1b[31m\nb\u2028é"], "a?[31m?b??"), (["first", "second"], "first")],
)
def test_the_name_of_a_client_is_printable(values: list[str | bytes], shown: str) -> None:
    assert printable(read_user_agent({"user-agent": values} if values else {})) == shown


async def test_a_token_in_another_place_is_hidden(gateway: Gateway, upstream: ScriptedUpstream, logged: Logged) -> None:
    upstream.script.append(DONE)
    token = "the-token-of-bob"
    # The token is where the text is cut.
    options = (("grpc.primary_user_agent", "x" * 230 + token), ("grpc.use_local_subchannel_pool", 1))
    request = pb.SendJobRequest(workspace_id=f"w-{token}", entity_id=1, method_name=f"m {token}")
    async with grpc.aio.insecure_channel(gateway.address, options) as channel:
        await rpc.JobServiceStub(channel).SendJob(request, metadata=(*BOB, ("x-request-id", token)))
    (line,) = lines(logged, "call")
    assert (line["workspace"], line["job_method"]) == ("w-[redacted]", "m [redacted]")
    assert line["x-request-id"] == "[redacted]"
    assert line["user_agent"].startswith("x" * 230 + "[redacted]")
    assert "the-token" not in str(line)


@pytest.mark.parametrize(
    ("listen", "pattern"), [("127.0.0.1:0", r"127\.0\.0\.1:\d+"), ("[::1]:0", r"\[::1\]:\d+"), ("unix:{}", "unix:.*")]
)
async def test_the_address_of_a_client_on_any_socket(tmp_path: Path, listen: str, pattern: str) -> None:
    found = []

    async def handle(_: bytes, context: Any) -> bytes:
        found.append(address_of(context))
        return b""

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("s", {"m": grpc.unary_unary_rpc_method_handler(handle)})
    server.add_generic_rpc_handlers((handler,))
    target = listen.format(tmp_path / "socket")
    port = server.add_insecure_port(target)
    await server.start()
    async with grpc.aio.insecure_channel(target.replace(":0", f":{port}")) as channel:
        await channel.unary_unary("/s/m")(b"")  # type: ignore[arg-type] # bytes
    await server.stop(None)
    assert re.fullmatch(pattern, found[0])


@pytest.mark.parametrize("has_key", [True, False])
async def test_a_fingerprint_is_stable_with_a_key_file(
    upstream: ScriptedUpstream, logged: Logged, tmp_path: Path, *, has_key: bool
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    upstream.script += [RUNNING] * 2
    settings = {"state_key_file": tmp_path / "key"} if has_key else {}
    for _ in range(2):
        async with running(upstream.url, **settings) as gateway, stub(gateway) as jobs:
            await jobs.GetJob(GET_JOB, metadata=BEARER)
    (one,), (other,) = lines(logged, "call", "client")
    assert (one == other) == has_key


async def test_callers_with_the_gateways_token_are_told_apart(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, logged: Logged, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("the-token-of-the-gateway")
    upstream.script += [RUNNING] * 3
    files = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    async with running(upstream.url, upstream_token_file=tmp_path / "token", **files) as gateway:
        for name in ("billing", "billing", "orders"):
            async with tls_channel(gateway, authority.pem, authority.client(name)) as channel:
                await rpc.JobServiceStub(channel).GetJob(GET_JOB)
    (one, _), (again, _), (other, peer) = lines(logged, "call", "client", "peer")
    assert (one == again, one == other, peer) == (True, False, "CN=orders")


# The submission


async def test_a_line_names_what_was_submitted(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged
) -> None:
    upstream.script.append(DONE)
    request = pb.SendJobRequest(
        workspace_id="acme\u2028", entity_id=7, method_name="a" * 300 + "\n", params_json=b'{"a": "a parameter"}'
    )
    await jobs.SendJob(request, metadata=BEARER)
    assert lines(logged, "call", "method", "workspace", "entity", "job_method") == [
        ("SendJob", "acme?", 7, "a" * (MAX_SHOWN_PEER - len(CUT_MARK)) + CUT_MARK)
    ]
    assert "a parameter" not in json.dumps(logged, default=repr)


async def test_an_invalid_submission_is_not_quoted(jobs: rpc.JobServiceAsyncStub, logged: Logged) -> None:
    request = pb.SendJobRequest(workspace_id="../a secret", entity_id=7)
    await expect_error(jobs.SendJob(request, metadata=BEARER))
    assert "a secret" not in json.dumps(logged, default=repr)


# Levels


@pytest.mark.parametrize(
    ("reply", "level"),
    [(RUNNING, "info"), (NOT_FOUND, "info"), (answer(503), "warning"), (answer(200, raw=b"x"), "warning")],
)
async def test_failures_of_the_upstream_are_warnings(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged, reply: bytes, level: str
) -> None:
    upstream.script.append(reply)
    call: Any = jobs.GetJob(GET_JOB, metadata=BEARER)
    if reply is RUNNING:
        await call
    else:
        await expect_error(call)
    assert lines(logged, "call", "log_level") == [(level,)]


async def test_a_page_in_place_of_the_api_is_a_warning_with_advice(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged
) -> None:
    upstream.script += [answer(404, raw=b"<html>"), answer(404, raw=b"<html>")]
    await expect_error(jobs.SendJob(pb.SendJobRequest(workspace_id="1", entity_id=7), metadata=BEARER))
    await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER))
    found = lines(logged, "call", "log_level", "reason")
    assert found == [("warning", "UPSTREAM_NOT_FOUND"), ("warning", "UPSTREAM_MALFORMED")]
    assert all("JOBGATEWAY_UPSTREAM_URL" in line["message"] for line in lines(logged, "call"))


def test_the_docs_name_the_reasons_of_warnings() -> None:
    mappings = [*BY_HTTP_STATUS.values(), *BY_ERROR.values(), OTHER_4XX, OTHER_5XX]
    faulty = {each.reason for each in mappings if each.fault is not Fault.CLIENT}
    # The same reason never has two sides.
    assert not faulty & {each.reason for each in mappings if each.fault is Fault.CLIENT}
    page = (ROOT / "docs" / "reference" / "logs.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| warning |")]
    assert set(re.findall(r"`([A-Z_]+)`", row)) == faulty - {"GATEWAY_DEFECT"}


# Watches


async def test_each_watch_of_a_stream_has_a_line_at_its_end(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged
) -> None:
    upstream.on("GET", "/jobs/1/", answer(200, {"uid": 1, "status": "success"}))
    upstream.on("GET", "/jobs/2/", NOT_FOUND)
    upstream.on("GET", "/jobs/3/", answer(200, {"uid": 3, "status": "running"}))
    upstream.on("GET", "/jobs/4/", answer(200, {"uid": 4, "status": "running"}))
    stream: Any = jobs.WatchJobs(metadata=BEARER)
    for uid in (1, 2, 3, 4, 4):
        await stream.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=uid)))
    ended: set[int] = set()
    while ended != {1, 2, 3, 4}:
        event = await stream.read()
        if event.WhichOneof("payload") in ("job", "failure"):
            ended.add(event.uid)
    await stream.write(pb.WatchJobsRequest(unwatch=3))
    # Answered in order, so the watch has ended.
    await stream.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=-1)))
    while (await stream.read()).WhichOneof("payload") != "failure":
        pass
    stream.cancel()
    await gateway.wait_idle()
    found = {(line["uid"], line["end"], line["log_level"]) for line in lines(logged, "watch.ended")}
    assert found == {
        (1, "SUCCESS", "info"),
        (2, "UPSTREAM_NOT_FOUND", "info"),
        (3, "UNWATCHED", "info"),
        (4, "STREAM_ENDED", "debug"),
    }
    (call,) = lines(logged, "call")
    assert (call["watches"], call["watches_open"], call["watches_rejected"]) == (4, 1, 2)
    assert lines(logged, "watch.rejected", "uid", "reason", "log_level") == [
        (4, "ALREADY_WATCHED", "debug"),
        (-1, "REQUEST_INVALID", "debug"),
    ]
    first = next(line for line in lines(logged, "watch.ended") if line["uid"] == 1)
    assert (first["client"], first["x-request-id"]) == (call["client"], call["x-request-id"])
    assert (first["events"], first["seconds"] >= 0) == (1, True)
    assert {line["log_level"] for line in lines(logged, "watch.started")} == {"debug"}


async def test_a_failure_of_the_upstream_ends_a_watch_with_a_warning(
    upstream: ScriptedUpstream, logged: Logged
) -> None:
    upstream.on("GET", "/jobs/1/", answer(503))
    async with running(upstream.url, poll_outage_seconds=0.1) as gateway, stub(gateway) as jobs:
        stream: Any = jobs.WatchJobs(metadata=BEARER)
        await stream.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=1)))
        await stream.done_writing()
        await read_all(stream)
    assert lines(logged, "watch.ended", "uid", "end", "log_level") == [(1, "UPSTREAM_OUTAGE", "warning")]


@pytest.mark.parametrize("method", ["WatchJob", "RunJob", "WaitJob"])
async def test_the_only_watch_of_a_call_has_lines_at_debug(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: Logged, method: str
) -> None:
    """At info, the line of the call says the same."""
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", RUNNING)
    upstream.on("GET", "/jobs/42/", DONE)
    request: dict[str, Any] = {
        "WatchJob": pb.WatchJobRequest(uid=42),
        "RunJob": pb.RunJobRequest(request=pb.SendJobRequest(workspace_id="1", entity_id=7)),
        "WaitJob": pb.WaitJobRequest(uid=42),
    }
    call = getattr(jobs, method)(request[method], metadata=BEARER)
    await (call if method == "WaitJob" else read_all(call))
    await gateway.wait_idle()
    assert lines(logged, "watch.started", "uid", "log_level") == [(42, "debug")]
    assert lines(logged, "watch.ended", "uid", "end", "log_level") == [(42, "SUCCESS", "debug")]
    (line,) = lines(logged, "call")
    assert line.get("events", 0) == lines(logged, "watch.ended")[0]["events"]
    assert line.get("events", 0) >= (method != "WaitJob")
