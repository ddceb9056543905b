"""The gateway token: the callers that use it, changes of its file, and places that it never reaches."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.auth import reloading
from gateway.auth.credential import Credential
from gateway.auth.gateway_token import GatewayToken
from gateway.errors import ConfigError
from tests.support.certificates import Authority, MountedSecret
from tests.support.gateways import BEARER, GET_JOB, TOKEN, expect_error, running, stub, tls_channel
from tests.support.stuck_file import StuckFile
from tests.support.upstream import DONE, RUNNING, Connection, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.server.gateway import Gateway

    Logged = list[dict[str, Any]]

OLD, NEW, NEWER = "vktrpat_the-old-token", "vktrpat_the-new-token", "vktrpat_the-newer-token"
SETTING = "JOBGATEWAY_UPSTREAM_TOKEN_FILE"
SEND_JOB = pb.SendJobRequest(workspace_id="1", entity_id=7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(OLD + "\n")
    return path


@pytest.fixture
async def elsewhere() -> AsyncIterator[ScriptedUpstream]:
    """Another host that responds to everything."""
    server = ScriptedUpstream()
    server.script.append(DONE)
    await server.start()
    yield server
    await server.stop()


def owning(upstream: ScriptedUpstream, file: Path, **settings: Any) -> AbstractAsyncContextManager[Gateway]:
    return running(upstream.url, upstream_token_file=file, **settings)


def used(upstream: ScriptedUpstream, method: str | None = None) -> list[str]:
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in upstream.requests(method)]


def put(file: Path, content: bytes | str | None) -> None:
    """Write the file again, or remove it."""
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)


class Accepts:
    """Accept one token, and respond to all others with 401 and an echo. `before` is called with each request."""

    def __init__(self, upstream: ScriptedUpstream, token: str, body: dict[str, Any], status: int = 200) -> None:
        self.token = token
        self.before: Callable[[], object] = bool
        self._upstream = upstream
        self._reply = answer(status, body, headers={"Connection": "close"})

    async def __call__(self, connection: Connection) -> None:
        self.before()
        authorization = self._upstream.seen[-1].headers["authorization"]
        refusal = answer(401, {"detail": f"no such token: {authorization}"}, headers={"Connection": "close"})
        await connection.send(self._reply if authorization == f"Bearer {self.token}" else refusal)


# Callers that use it


async def test_callers_without_a_token_use_the_gateway_token(upstream: ScriptedUpstream, file: Path) -> None:
    upstream.script.append(RUNNING)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        await jobs.GetJob(GET_JOB)
        await jobs.GetJob(GET_JOB, metadata=BEARER)
        await jobs.GetJob(GET_JOB)
    assert used(upstream) == [OLD, TOKEN, OLD]


@pytest.mark.parametrize("authorization", ["", "Basic abc", "Bearer"])
async def test_an_invalid_token_is_rejected_and_not_replaced(
    upstream: ScriptedUpstream, file: Path, authorization: str
) -> None:
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        failure = await expect_error(jobs.GetJob(GET_JOB, metadata=(("authorization", authorization),)))
    assert failure.reason == "CREDENTIAL_INVALID"
    assert upstream.seen == []


async def test_no_poll_is_shared_with_callers_without_a_token(upstream: ScriptedUpstream, file: Path) -> None:
    put(file, TOKEN)
    upstream.script.append(RUNNING)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        for metadata in (BEARER, ()):
            watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=metadata)
            assert isinstance(await watch.read(), pb.JobEvent)
    own, callers = GatewayToken(file).credential(""), Credential(TOKEN)
    assert own.poll_key != callers.poll_key
    assert own.caller_key != callers.caller_key


async def test_request_ids_belong_to_the_callers_identity(
    upstream: ScriptedUpstream, file: Path, tmp_path: Path
) -> None:
    authority = Authority()
    files = MountedSecret(tmp_path)
    files.put(authority.server(), authority.pem)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", *(answer(201, {"uid": uid}) for uid in (1, 2, 3)))
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="the-same")
    uids = []
    tls = {"tls_cert_file": files.cert, "tls_key_file": files.key, "tls_client_ca_file": files.ca}
    async with owning(upstream, file, **tls) as gateway:
        for name in ("one", "other", "one"):
            certificate = authority.client("shared subject", f"spiffe://mesh.example/{name}")
            async with tls_channel(gateway, authority.pem, certificate) as channel:
                uids.append((await rpc.JobServiceStub(channel).SendJob(request)).uid)
    assert uids == [1, 2, 1]


# Changes of the file


async def test_a_watch_continues_under_a_new_token(upstream: ScriptedUpstream, file: Path, logged: Logged) -> None:
    upstream.script.append(RUNNING)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42))
        assert isinstance(await watch.read(), pb.JobEvent)
        put(file, NEW)
        await upstream.wait_for(len(upstream.seen) + 2)
        assert used(upstream)[-1] == NEW
        # A new watch joins the same polls.
        newcomer = jobs.WatchJob(pb.WatchJobRequest(uid=42))
        assert isinstance(await newcomer.read(), pb.JobEvent)
        upstream.script.append(DONE)
        for stream in (watch, newcomer):
            last = await stream.read()
            assert isinstance(last, pb.JobEvent)
            assert last.job.done
            assert await stream.read() is grpc.aio.EOF
    tokens = used(upstream)
    assert tokens == sorted(tokens, key=[OLD, NEW].index)
    assert [line["settings"] for line in logged if line["event"] == "files.reloaded"] == [[SETTING]]


@pytest.mark.parametrize("method", ["GetJob", "SendJob"])
async def test_a_401_is_repeated_once_with_a_changed_token(upstream: ScriptedUpstream, file: Path, method: str) -> None:
    accepts = Accepts(upstream, NEW, {"uid": 42, "status": "running"}, 201 if method == "SendJob" else 200)
    accepts.before = partial(put, file, NEW)
    upstream.script.append(accepts)
    request = SEND_JOB if method == "SendJob" else GET_JOB
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        assert (await getattr(jobs, method)(request)).uid == 42
    assert used(upstream) == [OLD, NEW]


async def test_a_401_is_final_without_a_new_valid_token(upstream: ScriptedUpstream, file: Path, logged: Logged) -> None:
    accepts = Accepts(upstream, "another", {"uid": 42})
    upstream.script.append(accepts)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        for tokens in ([OLD], [OLD, OLD, NEW]):
            failure = await expect_error(jobs.GetJob(GET_JOB))
            assert failure.reason == "UPSTREAM_UNAUTHENTICATED"
            assert "no such token: Bearer [redacted]" in failure.message
            assert used(upstream) == tokens
            accepts.before = partial(put, file, NEW)
    assert not any(token in str(logged) for token in (OLD, NEW))


async def test_a_callers_gateway_token_is_tried_once(upstream: ScriptedUpstream, file: Path) -> None:
    accepts = Accepts(upstream, NEW, {"uid": 42})
    accepts.before = partial(put, file, NEW)
    upstream.script.append(accepts)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(GET_JOB, metadata=BEARER)
    assert used(upstream) == [TOKEN]


NOT_A_TOKEN = "the file is not one token of visible ASCII; write nothing else into it"
UNUSABLE = {
    "empty": (b"\n", "the file is empty; write one token into it"),
    "two lines": (
        b"one-secret\ntwo-secret\n",
        NOT_A_TOKEN,
    ),
    "not ASCII": ("a-secret-ü".encode(), NOT_A_TOKEN),
    "a space": (b"Bearer a-secret", NOT_A_TOKEN),
    "too long": (b"x" * 8193, NOT_A_TOKEN),
    "gone": (None, r".* cannot be read \(No such file or directory\); check the path and its permissions"),
}


@pytest.mark.parametrize(("content", "why"), UNUSABLE.values(), ids=UNUSABLE)
async def test_an_unusable_file_keeps_the_last_valid_token(
    upstream: ScriptedUpstream, file: Path, logged: Logged, content: bytes | None, why: str
) -> None:
    upstream.script.append(RUNNING)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        put(file, content)
        for _ in range(3):
            await jobs.GetJob(GET_JOB)
        put(file, NEW)
        await jobs.GetJob(GET_JOB)
    assert used(upstream) == [OLD, OLD, OLD, NEW]
    (line,) = (line for line in logged if line["event"] == "files.invalid")
    assert line["log_level"] == "warning"
    assert re.fullmatch(f"{SETTING}: {why}", line["why"])
    assert "secret" not in str(line)


@pytest.mark.parametrize(("content", "why"), UNUSABLE.values(), ids=UNUSABLE)
async def test_an_unusable_file_stops_the_start(
    upstream: ScriptedUpstream, file: Path, content: bytes | None, why: str
) -> None:
    put(file, content)
    with pytest.raises(ConfigError, match=f"^{SETTING}: {why}$") as raised:
        async with owning(upstream, file):
            pass
    assert "secret" not in str(raised.value)


async def test_tokens_old_and_new_are_taken_out_of_a_text(file: Path) -> None:
    own = GatewayToken(file)
    credential = own.credential("")
    for token in (NEW, NEWER, OLD + "-and-more"):
        put(file, token)
        await credential.headers()
    text = credential.redact(f"{OLD}-and-more {OLD} {NEW} {NEWER}")
    assert text == "[redacted] [redacted] [redacted] [redacted]"
    assert OLD not in repr(credential)


async def test_a_token_file_that_hangs_holds_up_no_call(
    upstream: ScriptedUpstream, file: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "READ_SECONDS", 0.5)
    upstream.script.append(RUNNING)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        stuck = StuckFile(file, monkeypatch)
        await asyncio.gather(jobs.GetJob(GET_JOB), jobs.GetJob(GET_JOB, metadata=BEARER))
        assert sorted(used(upstream)) == sorted([OLD, TOKEN])
        # While the volume hangs, only the first one waits.
        monkeypatch.setattr(reloading, "READ_SECONDS", 3600.0)
        await jobs.GetJob(GET_JOB)
        assert used(upstream)[-1] == OLD
        put(file, NEW)
        stuck.back.set()
        async with asyncio.timeout(20):
            while used(upstream)[-1] != NEW:
                await jobs.GetJob(GET_JOB)
    (line,) = (line for line in logged if line["event"] == "files.invalid")
    assert (line["log_level"], line["why"]) == (
        "warning",
        f"{SETTING}: {file} cannot be read within 0.5 s; check that the volume responds",
    )


# Places that it never reaches


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_takes_no_token_to_another_host(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, file: Path, status: int
) -> None:
    there = {"Location": elsewhere.url.replace("127.0.0.1", "localhost") + "/jobs/42/"}
    upstream.script.append(answer(status, headers=there))
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        for call in (jobs.GetJob(GET_JOB), jobs.SendJob(SEND_JOB), jobs.CancelJob(pb.CancelJobRequest(uid=42))):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    # After a rejected cancellation, the state is read.
    assert sorted(seen.method for seen in upstream.seen) == ["DELETE", "GET", "GET", "POST"]
    assert elsewhere.seen == []


@pytest.mark.parametrize("metadata", [(), BEARER])
async def test_the_address_of_a_job_takes_no_token_to_another_host(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, file: Path, metadata: Any
) -> None:
    headers = {"Location": f"{elsewhere.url}/jobs/42/"}
    created = answer(201, {"url": f"{elsewhere.url}/jobs/42/"}, headers=headers)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", created)
    upstream.on("GET", "/jobs/42/", DONE)
    async with owning(upstream, file) as gateway, stub(gateway) as jobs:
        events = [event async for event in jobs.RunJob(pb.RunJobRequest(request=SEND_JOB), metadata=metadata)]
    assert events[-1].job.done
    assert [seen.path for seen in upstream.requests("GET")] == ["/api/jobs/42/"]
    assert elsewhere.seen == []
