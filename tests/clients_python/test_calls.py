"""The calls of the Python client: its checks, its logins, its deadlines and its attempts."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import (
    ClosedError,
    FieldViolation,
    GatewayError,
    ResultDamagedError,
    TlsFileError,
    __version__,
)
from jobgateway_client.credential import Credential
from jobgateway_client.deadline import Deadline
from jobgateway_client.rules import Backoff, silence_seconds
from jobgateway_client.waiting import Closing, Waiting

from clients.runner.proxy import Proxy
from tests.support.client_gateway import Fail, Hold, ScriptedGateway, end, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients_python.conftest import Connect

CODE = grpc.StatusCode
JOB = pb.Job(uid=7, status=pb.JOB_STATUS_RUNNING)
SEND = pb.SendJobRequest(workspace_id="1", entity_id=7)
SEND_ONCE = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="once")
REFUSED = Fail(CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED")
NOWHERE = "127.0.0.1:1"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - also for changes in threads
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("token", ["secret\n", " secret", "secr\u00e9t", ""])
async def test_a_token_is_checked_before_grpc_sees_it(connect: Connect, token: str) -> None:
    with pytest.raises(ValueError, match=r"^the token ") as given:
        async with connect(NOWHERE, token=token):
            pass
    async with connect(NOWHERE, token=lambda: token) as client:
        with pytest.raises(ValueError, match=r"^the token ") as returned:
            await client.get(7)
        with pytest.raises(ValueError, match=r"^the token ") as watched:
            await client.watch(7).finish()
    for caught in (given, returned, watched):
        assert "secr" not in str(caught.value)


async def test_no_text_of_a_client_has_the_token(connect: Connect) -> None:
    async with connect(NOWHERE, token="secret") as client:
        watch = client.watch(7)
        assert "secret" not in repr(client) + repr(vars(client)) + repr(watch) + repr(vars(watch))


@pytest.mark.parametrize("target", ["", "http://gateway:50051", "HTTPS://gateway", "gateway:50051 ", "a b"])
async def test_a_mistyped_target_is_rejected(connect: Connect, target: str) -> None:
    with pytest.raises(ValueError, match="target: must be HOST:PORT"):
        async with connect(target):
            pass


@pytest.mark.parametrize("config", ["", "{", "[]"])
async def test_a_mistyped_service_config_is_rejected(connect: Connect, config: str) -> None:
    with pytest.raises(ValueError, match="service_config: must be a JSON object"):
        async with connect(NOWHERE, service_config=config):
            pass


@pytest.mark.parametrize("request_", [{}, pb.RunJobRequest(request=SEND), pb.GetJobRequest(uid=7), None])
async def test_another_message_is_not_sent(gateway: ScriptedGateway, connect: Connect, request_: Any) -> None:
    async with connect(gateway.target) as client:
        with pytest.raises(TypeError):
            await client.send(request_)
        for use in (client.get, client.wait, client.cancel):
            with pytest.raises(TypeError):
                await use("7")
        for use in (client.watch, client.run):
            with pytest.raises(TypeError):
                use("7")
    assert gateway.calls == []


async def test_a_run_that_a_broken_stream_would_cancel_is_rejected(connect: Connect) -> None:
    async with connect(NOWHERE) as client:
        with pytest.raises(ValueError, match="cancel_on_disconnect: "):
            client.run(pb.RunJobRequest(request=SEND, cancel_on_disconnect=True))


@pytest.mark.parametrize(
    ("interval", "silence"),
    [
        (None, 45),
        (Duration(), 3),
        (Duration(seconds=-1), 3),
        (Duration(seconds=1), 3),
        (Duration(seconds=2), 6),
        (Duration(seconds=2**62), 86_400),
    ],
)
def test_the_longest_silence_is_bounded(interval: Duration | None, silence: float) -> None:
    assert silence_seconds(pb.WatchJobRequest(heartbeat_interval=interval)) == silence


async def test_the_response_to_a_wrong_interval_is_seen(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[Fail(CODE.INVALID_ARGUMENT, "REQUEST_INVALID")]]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="REQUEST_INVALID"):
            await client.watch(pb.WatchJobRequest(uid=7, heartbeat_interval=Duration(seconds=-1))).finish()


@pytest.mark.parametrize("timeout", [math.inf, 1e30])
async def test_any_time_limit_can_be_given(gateway: ScriptedGateway, connect: Connect, timeout: float) -> None:
    gateway.script = [[JOB], [end()]]
    async with connect(gateway.target) as client:
        assert (await client.get(7, timeout=timeout)).uid == 7
        assert (await client.watch(7, timeout=timeout).finish()).succeeded


async def test_a_client_names_itself(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[JOB]]
    async with connect(gateway.target) as client:
        await client.get(7)
    assert gateway.metadata[0]["user-agent"].startswith(f"jobgateway-python/{__version__} ")


async def nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.get(7, on_retry=nothing),
        lambda client: client.send(SEND, on_replayed=nothing),
        lambda client: client.run(SEND, on_progress=nothing).finish(),
        lambda client: client.watch(7, on_retry=nothing).finish(),
        lambda client: anext(client.watch_all([7], on_retry=nothing)),
    ],
)
async def test_a_callback_that_no_one_awaits_is_rejected(connect: Connect, use: Callable[..., Any]) -> None:
    async with connect(NOWHERE) as client:
        with pytest.raises(TypeError, match="the callback nothing is a coroutine function"):
            await use(client)


class Logins:
    """A function that returns tokens, after a permission if it is to block."""

    def __init__(self, *tokens: str | Exception, blocks: bool = False) -> None:
        self.asked = 0
        self.permission = threading.Event()
        self._tokens = tokens
        if not blocks:
            self.permission.set()

    def __call__(self) -> str:
        token = self._tokens[min(self.asked, len(self._tokens) - 1)]
        self.asked += 1
        self.permission.wait(30)
        if isinstance(token, Exception):
            raise token
        return token


def token_source(connect: Connect, login: Logins) -> Any:
    """Return the function for the client: a coroutine function for asyncio."""

    async def in_loop() -> str:
        return await asyncio.to_thread(login)

    return in_loop if connect.__name__ == "_connect" else login


USES: list[Callable[..., Any]] = [
    lambda client, **options: client.get(7, **options),
    lambda client, **options: client.watch(7, **options).finish(),
]


@pytest.mark.parametrize("use", USES)
async def test_a_login_ends_with_the_deadline_of_each(connect: Connect, use: Callable[..., Any]) -> None:
    login = Logins("token", blocks=True)
    async with connect(NOWHERE, token=token_source(connect, login)) as client:
        for _ in range(2):
            with pytest.raises(GatewayError) as caught:
                await use(client, timeout=0.05)
            assert caught.value.code is CODE.DEADLINE_EXCEEDED
        # Both waited for the same one.
        assert login.asked == 1
        waiting = asyncio.ensure_future(use(client))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClosedError):
            await waiting
        login.permission.set()


async def test_calls_share_a_login(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[JOB]] * 5
    login = Logins("token", blocks=True)
    async with connect(gateway.target, token=token_source(connect, login)) as client:
        calls = [asyncio.ensure_future(client.get(7)) for _ in range(5)]
        await until(lambda: bool(login.asked))
        login.permission.set()
        await asyncio.gather(*calls)
    assert login.asked == 1
    assert {each["authorization"] for each in gateway.metadata} == {"Bearer token"}


def test_a_login_that_has_just_ended_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    login = Logins("token")
    log_in, ended = vars(Credential)["_log_in"], threading.Event()

    def late(credential: Credential, *arguments: Any) -> bool:
        # Another thread looked for a token earlier than this one, and logs in before it.
        if not ended.is_set():
            ended.set()
            threads.submit(credential.token, waiting).result(30)
        return bool(log_in(credential, *arguments))

    monkeypatch.setattr(Credential, "_log_in", late)
    waiting = Waiting(closing := Closing(), Deadline(30))
    with ThreadPoolExecutor() as threads:
        assert Credential(login, closing).token(waiting) == "token"
    assert login.asked == 1


async def test_a_login_that_fails_ends_one_call(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[JOB]] * 5
    login = Logins(OSError("no login"), "token", blocks=True)
    async with connect(gateway.target, token=token_source(connect, login)) as client:
        calls = [asyncio.ensure_future(client.get(7)) for _ in range(5)]
        await until(lambda: bool(login.asked))
        login.permission.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["Job"] * 4 + ["OSError"]


async def test_the_same_token_is_tried_once_more(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[REFUSED], [REFUSED], [REFUSED], [REFUSED]]
    async with connect(gateway.target, token=lambda: "same") as client:
        for use in USES:
            with pytest.raises(GatewayError):
                await use(client)
    assert len(gateway.calls) == 4


@pytest.mark.parametrize("use", USES)
async def test_the_error_of_a_deadline_has_its_cause(
    gateway: ScriptedGateway, connect: Connect, use: Callable[..., Any]
) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "DRAINING", uid=7, retry=0.1)], [Hold()]]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="it failed, and no time is left") as caught:
            await use(client, timeout=1)
    cause = caught.value.__cause__
    assert caught.value.code is CODE.DEADLINE_EXCEEDED
    assert isinstance(cause, GatewayError)
    assert (cause.code, cause.reason) == (CODE.UNAVAILABLE, "DRAINING")
    assert len(gateway.calls) == 2


async def test_an_attempt_that_comes_too_late_is_not_waited_for(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "DRAINING", retry=3_600)]]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError) as caught:
            await client.get(7, timeout=1_000)
    assert isinstance(caught.value.__cause__, GatewayError)
    assert caught.value.__cause__.reason == "DRAINING"


@pytest.mark.parametrize("use", USES)
async def test_a_failure_at_the_deadline_is_its_cause(
    gateway: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch, use: Callable[..., Any]
) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "DRAINING")]]
    # The time is over when the response is read.
    monkeypatch.setattr(Deadline, "left", lambda _: 0.0)
    monkeypatch.setattr(Deadline, "patience", lambda _: 30.0)
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="no time is left") as caught:
            await use(client, timeout=1)
    assert caught.value.code is CODE.DEADLINE_EXCEEDED
    assert isinstance(caught.value.__cause__, GatewayError)
    assert caught.value.__cause__.reason == "DRAINING"


@pytest.mark.parametrize("use", USES)
async def test_an_attempt_waits_as_long_as_the_gateway_says(
    gateway: ScriptedGateway, connect: Connect, use: Callable[..., Any]
) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "UPSTREAM_OUTAGE", retry=0.4)], [Fail(CODE.UNAVAILABLE)], [end().job]]
    if use is USES[1]:
        gateway.script[2] = [end()]
    async with connect(gateway.target) as client:
        await use(client)
    first, second, third = gateway.times
    assert second - first >= 0.4
    assert third - second >= 0.1


async def test_an_unknown_outcome_is_never_sent_again(gateway: ScriptedGateway, connect: Connect) -> None:
    unknown = [Fail(CODE.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN", retry=0.01)]
    gateway.script = [unknown, unknown]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="SUBMIT_OUTCOME_UNKNOWN"):
            await client.send(SEND_ONCE)
        with pytest.raises(GatewayError, match="SUBMIT_OUTCOME_UNKNOWN"):
            await client.run(SEND_ONCE).finish()
    assert len(gateway.calls) == 2


async def test_a_wait_outlasts_an_outage(
    gateway: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda *_: 0.0)
    outage = [[Fail(CODE.UNAVAILABLE)], [Fail(CODE.UNAVAILABLE, "DRAINING")]] * 5
    gateway.script = [*outage, [JOB], *outage, [end().job]]
    async with connect(gateway.target) as client:
        assert (await client.wait(7)).done
        gateway.script = [[Fail(CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")]]
        with pytest.raises(GatewayError, match="UPSTREAM_NOT_FOUND"):
            await client.wait(7)


@pytest.mark.parametrize("request_", [7, pb.WaitJobRequest(uid=7, timeout=Duration(seconds=1))])
async def test_a_wait_whose_time_is_over_returns_the_job(
    gateway: ScriptedGateway, connect: Connect, request_: Any
) -> None:
    gateway.script = [[JOB]]
    async with connect(gateway.target) as client:
        job = await client.wait(request_, timeout=0.9)
    assert (job.uid, job.done) == (7, False)


def waiting(seconds: float) -> pb.WaitJobRequest:
    request = pb.WaitJobRequest(uid=7)
    request.timeout.FromMilliseconds(int(seconds * 1_000))
    return request


NOT_READ = Fail(CODE.UNAVAILABLE, "NO_STATE_YET", retry=0.3)


@pytest.mark.parametrize("longest", [None, 50, 200])
async def test_each_attempt_of_a_wait_has_the_rest_of_its_time(
    gateway: ScriptedGateway, connect: Connect, longest: float | None
) -> None:
    gateway.script = [[NOT_READ], [NOT_READ], [end().job]]
    async with connect(gateway.target) as client:
        await client.wait(waiting(100), timeout=longest)
    asked = [request.timeout.ToNanoseconds() / 1e9 for _, request in gateway.calls]
    limit = min(100, longest or 100)
    assert [seconds <= limit - 0.3 * spent for spent, seconds in enumerate(asked)] == [True] * 3
    assert min(asked) > 0


async def test_the_end_of_the_time_of_a_wait_has_its_cause(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[Fail(CODE.UNAVAILABLE, "NO_STATE_YET", retry=2_000)]]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError) as caught:
            await client.wait(waiting(1_000))
    assert (caught.value.code, caught.value.reason) == (CODE.DEADLINE_EXCEEDED, "")
    assert isinstance(caught.value.__cause__, GatewayError)
    assert caught.value.__cause__.reason == "NO_STATE_YET"


async def test_a_final_error_after_the_time_is_the_error(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[Fail(CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")]]
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="UPSTREAM_NOT_FOUND"):
            await client.wait(waiting(0))


async def test_a_wrong_timeout_reaches_the_gateway(gateway: ScriptedGateway, connect: Connect) -> None:
    wrong = Fail(CODE.INVALID_ARGUMENT, "REQUEST_INVALID")
    gateway.script = [[wrong], [wrong]]
    async with connect(gateway.target, token=lambda: "secret") as client:
        for seconds in (-1, 100_000):
            with pytest.raises(GatewayError, match="REQUEST_INVALID"):
                await client.wait(waiting(seconds))
    assert [request for _, request in gateway.calls] == [waiting(-1), waiting(100_000)]


async def test_a_wait_repeats_a_failure_of_the_upstream_a_few_times(
    gateway: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda *_: 0.0)
    gateway.script = [[Fail(CODE.INTERNAL, "UPSTREAM_ERROR")]] * 6
    async with connect(gateway.target) as client:
        with pytest.raises(GatewayError, match="UPSTREAM_ERROR"):
            await client.wait(7)
    assert len(gateway.calls) == 5


async def test_a_wait_returns_the_last_state_at_its_limit(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[JOB], [Hold()]]
    async with connect(gateway.target) as client:
        assert (await client.wait(7, timeout=1.3)).uid == 7
    assert len(gateway.calls) == 2


async def test_a_struct_is_converted_only_on_demand(
    gateway: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions: list[Any] = []
    convert = json_format.MessageToDict

    def counted(each: Any) -> Any:
        conversions.append(each)
        return convert(each)

    monkeypatch.setattr(json_format, "MessageToDict", counted)
    content = Struct()
    content.update({"sum": 3})
    done = pb.Job(uid=7, done=True, content=content, content_size=9)
    gateway.script = [[done], [pb.JobEvent(uid=7, job=done)]]
    async with connect(gateway.target) as client:
        await client.get(7)
        watch = client.watch(7)
        _ = [event async for event in watch]
        assert conversions == []
        assert json.loads((await watch.finish()).result) == {"sum": 3}


async def test_the_result_of_a_response_is_verified(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.script = [[pb.Job(uid=7, done=True, content_json=b"[1]", content_size=3, content_sha256="0" * 64)]]
    async with connect(gateway.target) as client:
        with pytest.raises(ResultDamagedError, match="their SHA-256 is wrong"):
            await client.get(7)
    assert len(gateway.calls) == 1


async def test_a_connection_that_was_replaced_is_closed(gateway: ScriptedGateway, connect: Connect) -> None:
    host, _, port = gateway.target.partition(":")
    gateway.script = [[state(10), Fail(CODE.UNAVAILABLE, "DRAINING")], [end()], [Fail(CODE.INTERNAL)], [JOB], [JOB]]
    async with Proxy((host, int(port))) as proxy, connect(proxy.address) as client:
        await client.watch(7).finish()
        await client.get(7)
        await client.get(7)
        await until(lambda: proxy.open == 1)
    assert len(set(gateway.peers)) == 3


@pytest.mark.parametrize(
    "error",
    [
        GatewayError(
            CODE.INVALID_ARGUMENT,
            "it failed",
            reason="REQUEST_INVALID",
            metadata={"uid": "7"},
            fields=(FieldViolation("a.b", "is wrong"),),
            retry_delay=0.5,
        ),
        ResultDamagedError(7, "none of its 6 bytes arrived"),
        ClosedError("the client was closed"),
        TlsFileError(("ca_file",), "cannot be read"),
    ],
)
def test_an_error_can_be_sent_to_another_process(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
