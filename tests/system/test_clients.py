"""The tools that test the clients: service config, scenarios, and the judge, which must detect every fault."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from rich.console import Console

from clients.runner import languages, scenarios
from clients.runner.__main__ import Program, attempt
from clients.runner.calls import Call, End, Lifetime
from clients.runner.documented_errors import FailingGateway, documented_errors
from clients.runner.http2_proxy import Http2Proxy
from clients.runner.judge import Run, matches, problems
from clients.runner.proxy import Proxy
from clients.runner.scenarios import DIRECT_SERVICE_CONFIG, SERVICE_CONFIG, Fault, Scenario
from clients.runner.stack import TOKEN, Stack
from tests.rpc.test_status import ACTIONS, ENDINGS, Read
from tests.support.gateways import expect_error
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

JOB_SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
RETRIED = {"GetJob", "WaitJob", "CancelJob", "WatchJob"}
CONFIG = json.loads(SERVICE_CONFIG.read_text())
BEARER = (("authorization", f"Bearer {TOKEN}"),)


def method_configs() -> dict[str, dict[str, Any]]:
    named = [(name, config) for config in CONFIG["methodConfig"] for name in config["name"]]
    assert {name["service"] for name, _ in named} == {JOB_SERVICE.full_name}
    assert len({name["method"] for name, _ in named}) == len(named)
    return {name["method"]: config for name, config in named}


def test_the_service_config_names_every_rpc() -> None:
    assert method_configs().keys() == set(JOB_SERVICE.methods_by_name)


def test_the_service_config_retries_only_safe_methods() -> None:
    policies = {method: config["retryPolicy"] for method, config in method_configs().items() if "retryPolicy" in config}
    assert policies.keys() == RETRIED
    for policy in policies.values():
        assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
        assert 2 <= policy["maxAttempts"] <= 5  # gRPC's maximum is 5


def test_the_service_config_gives_long_calls_no_deadline() -> None:
    timed = {method for method, config in method_configs().items() if "timeout" in config}
    assert timed == {"GetJob", "CancelJob", "SendJob"}


def test_only_the_config_for_direct_connections_checks_health() -> None:
    # Through a proxy, the health stream and the calls may reach different gateways.
    assert "healthCheckConfig" not in CONFIG
    direct = json.loads(DIRECT_SERVICE_CONFIG.read_text())
    assert direct.pop("healthCheckConfig") == {"serviceName": JOB_SERVICE.full_name}
    assert direct["loadBalancingConfig"] == [{"round_robin": {}}]  # pick_first checks no health
    assert direct == CONFIG


def refused_calls(stack: Stack, method: str) -> int:
    """Return how many calls of a method the gateway ended with UNAVAILABLE."""
    entries = [json.loads(line) for line in stack.gateway_log.splitlines()]
    return sum(method in entry.values() and "UNAVAILABLE" in entry.values() for entry in entries)


@pytest.mark.slow
async def test_grpc_retries_reads_but_never_submissions() -> None:
    faults = [{"kind": 503, "on": "poll", "times": 2}]
    job = pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=json.dumps({"faults": faults}).encode())
    scenario = Scenario(name="config", about="", steps=[], expect=[])
    options = (("grpc.service_config", SERVICE_CONFIG.read_text()),)
    async with Stack(scenario) as stack, grpc.aio.insecure_channel(stack.target, options) as channel:
        stub = rpc.JobServiceStub(channel)
        sent = await stub.SendJob(job, metadata=BEARER)
        assert (await stub.GetJob(pb.GetJobRequest(uid=sent.uid), metadata=BEARER)).uid == sent.uid
        await stack.simulator.refuse(True)
        assert (await expect_error(stub.SendJob(job, metadata=BEARER))).code is grpc.StatusCode.UNAVAILABLE
    # A thread writes the log, so it is complete only when the gateway has ended.
    assert (refused_calls(stack, "GetJob"), refused_calls(stack, "SendJob")) == (2, 1)


WORDS = {"fix the request": "fix", "log in again": "login", "look before sending again": "look", "give up": "give_up"}


def test_the_clients_meet_every_reason_of_the_gateway() -> None:
    refusals = {each.reason: each for each in documented_errors() if each.reason in ACTIONS}
    assert {reason: each.action for reason, each in refusals.items()} == {
        reason: WORDS.get(action, action) for reason, action in ACTIONS.items()
    }
    for ending in ENDINGS:
        refusal = refusals[ending.reason]
        assert refusal.code == ending.code.name
        kinds = [detail.TypeName() for detail in status_pb2.Status.FromString(refusal.details()).details]
        # With other codes, such as 503, the gateway does not always know a delay.
        assert ending.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or kinds == Read(ending).kinds


def test_the_clients_meet_foreign_errors_and_unknown_reasons() -> None:
    others = [each for each in documented_errors() if each.reason not in ACTIONS]
    assert {each.code for each in others if not each.reason} >= {"CANCELLED", "DEADLINE_EXCEEDED", "OUT_OF_RANGE"}
    assert [each.action for each in others if each.reason] == ["retry"]


async def test_the_request_id_chooses_the_error_of_a_submission() -> None:
    async with FailingGateway() as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        stub = rpc.JobServiceStub(channel)
        for uid, each in enumerate(documented_errors(), start=1):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.SendJob(pb.SendJobRequest(request_id=each.request_id))
            assert caught.value.code().name == each.code
            trailers = dict(caught.value.trailing_metadata() or ())
            found = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
            known = [
                detail for detail in found.details if detail in status_pb2.Status.FromString(each.details()).details
            ]
            assert len(known) == (len(found.details) - 2 if each.reason else 0)
            assert (await stub.SendJob(pb.SendJobRequest(request_id=each.request_id))).uid == uid
        assert len(gateway.posts) == 2 * len(documented_errors())


def test_the_scenarios_have_unique_names() -> None:
    names = [each.name for each in scenarios.load()]
    assert len(set(names)) == len(names)


def test_the_scenarios_play_every_fault_and_use_every_step() -> None:
    table = scenarios.load()
    kinds = {fault.kind for each in table for fault in each.faults}
    assert kinds == set(Fault.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]
    assert {step["do"] for each in table for step in each.steps} == {
        "send",
        "run",
        "get",
        "wait",
        "cancel",
        "watch",
        "watch_each",
        "watch_all",
    }


def test_every_client_is_listed_in_the_readme() -> None:
    listed = re.findall(r"^\| `(\w+)/` \|", (scenarios.CLIENTS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [each.name for each in languages.load()]


@pytest.mark.slow
async def test_a_gateway_that_does_not_start_fails_one_run_only() -> None:
    program = Program("made_up", "true", languages.load()[0], 0)
    scenario = SCENARIO.model_copy(update={"gateway": {"JOBGATEWAY_MAX_CALLS": "none"}})
    await attempt(program, scenario, asyncio.Semaphore(), Console(quiet=True))
    (found,) = program.failed[scenario.name]
    assert "JOBGATEWAY_MAX_CALLS" in found


def job(done: bool = False, **more: Any) -> dict[str, Any]:
    return {"do": "watch", "job": {"uid": "7", "done": done, **more}}


SENT = {"do": "send", "job": {"uid": "7", "done": False}}
SCENARIO = Scenario(
    name="made_up",
    about="",
    steps=[{"do": "send", "request": {"request_id": "{unique}"}}, {"do": "watch"}],
    expect=[job(message="one"), job(done=True)],
    never=[{"error": {}}],
)


CALLS = [Call("SendJob", "", ()), Call("WatchJob", "7", ("7",))]


def judged(*seen: dict[str, Any], scenario: Scenario = SCENARIO, **run: Any) -> str:
    fields: dict[str, Any] = {"lines": list(seen), "calls": CALLS, "posts": [b"{}"]} | run
    return "\n".join(problems(scenario, Run(**fields)))


GOOD = (SENT, job(message="one"), job(message="two"), job(done=True))


def test_a_good_run_has_no_problem() -> None:
    assert judged(*GOOD) == ""


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ((SENT, job(message="two"), job(done=True)), "missing, or out of order"),
        ((SENT, job(done=True), job(message="one")), "did not end with exactly one state that is done"),
        ((*GOOD, job(done=True)), "did not end with exactly one state that is done"),
        ((SENT, job(message="one"), job(message="one"), job(done=True)), "the same state twice"),
        ((*GOOD[:2], {"do": "watch", "error": {"code": "X"}}), "not expected"),
        (({"do": "send", "job": {"uid": 7}}, *GOOD[1:]), "is not a string"),
        ((*GOOD[:3], {"do": "watch", "chunk": {"offset": 5, "size": 5, "held": 0}}, GOOD[3]), "does not continue"),
        (
            (
                *GOOD[:3],
                {"do": "watch", "chunk": {"offset": 0, "size": 5, "held": 0}},
                {"do": "watch", "chunk": {"offset": 0, "size": 5, "held": 5}},
                GOOD[3],
            ),
            "does not continue",
        ),
        ((*GOOD[:3], {"do": "watch", "chunk": {"offset": 0, "size": 5, "held": 3}}, GOOD[3]), "the client had 0 bytes"),
        (
            (*GOOD[:3], job(done=True, result={"as": "json", "content_size": 1, "content_sha256": "00"})),
            "and the gateway announced",
        ),
    ],
)
def test_a_bad_run_is_detected(seen: tuple[dict[str, Any], ...], problem: str) -> None:
    assert problem in judged(*seen)


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        ({"exit_code": 3}, "exit code 3"),
        ({"calls": CALLS[:1]}, "no call of WatchJob was recorded"),
        ({"calls": [*CALLS, Call("WatchJob", "7", ())]}, "WatchJob of the job 7 has the x-job-uid []"),
        ({"calls": [*CALLS, Call("WatchJob", "7", ("8",))]}, "has the x-job-uid ['8']"),
        ({"calls": [*CALLS, Call("SendJob", "", ("7",))]}, "SendJob of the job - has the x-job-uid ['7']"),
        ({"invalid_lines": [b"Hello"]}, "not a JSON object"),
        ({"text": f"Bearer {TOKEN}"}, "the client printed a token"),
        ({"missed": ["cut"]}, "the fault cut was never injected"),
        ({"posts": [b"{}", b"{}"]}, "2 submissions reached the upstream, not 1"),
    ],
)
def test_problems_around_a_run_are_detected(run: dict[str, Any], problem: str) -> None:
    assert problem in judged(*GOOD, **run)


RUN = Scenario(name="made_up", about="", steps=[{"do": "run", "request": {}}], expect=[{"job": {"uid": "{first}"}}])
RUN_CALLS = [Call("RunJob", "", ()), Call("WatchJob", "7", ("7",), connection=1)]


def judged_run(*seen: dict[str, Any], **run: Any) -> str:
    lines = [each | {"do": "run"} for each in seen]
    return judged(*lines, **{"scenario": RUN, "calls": RUN_CALLS, **run})


@pytest.mark.parametrize(
    ("seen", "run", "problem"),
    [
        (GOOD[1:], {"calls": RUN_CALLS[1:]}, "no call of RunJob was recorded"),
        (GOOD[1:], {"calls": [*RUN_CALLS, *CALLS]}, "no step calls SendJob"),
        (GOOD[1:], {"posts": []}, "0 submissions reached the upstream, not 1"),
        (GOOD[1:3], {}, "did not end with exactly one state that is done"),
    ],
)
def test_a_bad_run_step_is_detected(seen: tuple[dict[str, Any], ...], run: dict[str, Any], problem: str) -> None:
    assert judged_run(*GOOD[1:]) == ""
    assert problem in judged_run(*seen, **run)


EACH = Scenario(
    name="made_up",
    about="",
    steps=[{"do": "send", "count": 2, "request": {}}, {"do": "watch_each"}],
    expect=[],
    posts=2,
    connections=2,
)
EACH_SENT = tuple({"do": "send", "job": {"uid": uid}} for uid in ("1", "2"))


def each_job(uid: str, *, done: bool = False) -> dict[str, Any]:
    return {"do": "watch_each", "job": {"uid": uid, "done": done}}


@pytest.mark.parametrize(
    ("seen", "run", "problem"),
    [
        ([each_job("1", done=True)], {}, "the job 2 did not end"),
        ([each_job("2", done=True), each_job("1", done=True), each_job("2", done=True)], {}, "the job 2 has ended"),
        ([each_job("2"), each_job("1", done=True), each_job("2")], {}, "the same state twice"),
        (
            [],
            {"connections": [Lifetime(number, 0) for number in range(3)]},
            "the client made 3 connections, more than 2",
        ),
    ],
)
def test_a_bad_watch_of_each_job_is_detected(seen: list[dict[str, Any]], run: dict[str, Any], problem: str) -> None:
    fields: dict[str, Any] = {"scenario": EACH, "posts": [b"{}"] * 2}
    assert judged(*EACH_SENT, each_job("2"), each_job("1", done=True), each_job("2", done=True), **fields) == ""
    assert problem in judged(*EACH_SENT, *seen, **fields, **run)


MANY = Scenario(
    name="made_up",
    about="",
    steps=[
        {"do": "send", "request": {"params": {"result_bytes": 40}}},
        {"do": "send", "count": 2, "request": {}},
        {"do": "watch_all", "uids": ["9"]},
    ],
    expect=[],
    posts=3,
)
MANY_SENT = tuple({"do": "send", "job": {"uid": uid}} for uid in ("1", "2", "3"))
MANY_CALLS = [Call("SendJob", "", ()), Call("WatchJobs", "", (), end=End(0, code=0))]


def of_many(**line: Any) -> dict[str, Any]:
    return {"do": "watch_all", **line}


def many_job(uid: str, *, done: bool = False, status: str = "JOB_STATUS_SUCCESS", **more: Any) -> dict[str, Any]:
    return of_many(job={"uid": uid, "done": done, "status": status if done else "JOB_STATUS_RUNNING", **more})


def many_chunk(uid: str, offset: int, held: int) -> dict[str, Any]:
    return of_many(chunk={"uid": uid, "offset": offset, "size": 5, "held": held})


FAILED = of_many(error={"uid": "9", "code": "NOT_FOUND"})
ENDED = of_many(ended={"succeeded": 2, "failed": 1, "errors": 1})
MANY_ENDS = [many_job("2", done=True), many_job("3", done=True, status="JOB_STATUS_ERROR"), many_job("1", done=True)]
MANY_GOOD = [
    many_job("1"),
    many_job("2"),
    many_chunk("1", 0, 0),
    many_chunk("2", 0, 0),
    many_chunk("1", 5, 5),
    of_many(again={"uid": "3"}),
    of_many(heartbeat={"consecutive_failures": 0}),
    FAILED,
    *MANY_ENDS,
    ENDED,
]


def judged_many(*seen: dict[str, Any], **run: Any) -> str:
    fields: dict[str, Any] = {"scenario": MANY, "calls": MANY_CALLS, "posts": [b"{}"] * 3} | run
    return judged(*MANY_SENT, *seen, **fields)


def test_a_good_watch_of_many_jobs_has_no_problem() -> None:
    assert judged_many(*MANY_GOOD) == ""
    # A final error of the whole step ends it, too.
    assert judged_many(many_job("1"), of_many(error={"code": "UNIMPLEMENTED"})) == ""


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ([FAILED, *MANY_ENDS[1:], ENDED], "the job 2 did not end"),
        ([*MANY_ENDS, ENDED], "the job 9 did not end"),
        ([FAILED, *MANY_ENDS, MANY_ENDS[0], ENDED], "the job 2 has ended, and then came"),
        ([FAILED, FAILED, *MANY_ENDS, ENDED], "the job 9 has ended, and then came"),
        ([FAILED, *MANY_ENDS, many_chunk("1", 0, 0), ENDED], "the job 1 has ended, and then came"),
        ([FAILED, *MANY_ENDS, of_many(again={"uid": "1"}), ENDED], "the job 1 has ended, and then came"),
        ([FAILED, *MANY_ENDS, of_many(heartbeat={"uid": "1"}), ENDED], "the job 1 has ended, and then came"),
        ([many_job("1"), many_job("2"), many_job("1"), FAILED, *MANY_ENDS, ENDED], "the same state twice"),
        ([FAILED, *MANY_ENDS], "the last line is"),
        ([FAILED, *MANY_ENDS, of_many(ended={"succeeded": 3, "errors": 1})], "the last line is"),
        ([of_many(job={"done": False}), FAILED, *MANY_ENDS, ENDED], "no uid"),
        ([many_chunk("1", 0, 0), many_chunk("2", 5, 5), FAILED, *MANY_ENDS, ENDED], "the client had 0 bytes"),
        (
            [FAILED, *MANY_ENDS[1:], many_job("2", done=True, result={"as": "struct", "content_size": 40}), ENDED],
            "the result is {'size': 18",
        ),
    ],
)
def test_a_bad_watch_of_many_jobs_is_detected(seen: list[dict[str, Any]], problem: str) -> None:
    assert problem in judged_many(*seen)


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        (MANY_CALLS[:1], "no call of WatchJobs was recorded"),
        ([*MANY_CALLS, Call("WatchJob", "1", ("1",))], "no step calls WatchJob"),
        ([MANY_CALLS[0], Call("WatchJobs", "", ("1",))], "has the x-job-uid ['1']"),
    ],
)
def test_the_calls_for_many_jobs_are_checked(calls: list[Call], problem: str) -> None:
    assert problem in judged_many(*MANY_GOOD, calls=calls)


def test_submissions_and_upstream_paths_are_checked() -> None:
    scenario = SCENARIO.model_copy(update={"posted": {"params": {"a": 1}}, "requested": "/api/jobs/7/"})
    assert judged(*GOOD, scenario=scenario, posts=[b'{"params":{"a":1}}'], paths=["/api/jobs/7/"]) == ""
    assert "another body" in judged(*GOOD, scenario=scenario, posts=[b'{"params":{"a":2}}'], paths=["/api/jobs/7/"])
    assert "no request for" in judged(*GOOD, scenario=scenario, posts=[b'{"params":{"a":1}}'], paths=["/api/jobs/8/"])


def test_a_wrong_result_at_the_client_is_detected() -> None:
    text = '{"sum":5}'
    digest = "4403134882233d347dfa35d23b98c42a4442478ce521631ef566d21df77e2a52"
    scenario = SCENARIO.model_copy(update={"result": text})
    told = {"as": "json", "content_size": len(text), "content_sha256": digest}
    assert judged(*GOOD[:3], job(True, result=told | {"size": 9, "sha256": digest}), scenario=scenario) == ""
    bad = judged(*GOOD[:3], job(True, result=told | {"size": 8, "sha256": digest}), scenario=scenario)
    assert "and the client has" in bad


def test_a_client_with_the_service_config_must_follow_it() -> None:
    scenario = SCENARIO.model_copy(update={"never": [], "never_with_service_config": [{"error": {}}]})
    seen = (SENT, {"do": "get", "error": {"code": "UNAVAILABLE"}}, *GOOD[1:])
    assert judged(*seen, scenario=scenario) == ""
    assert "not expected" in judged(*seen, scenario=scenario, reads_service_config=True)


def test_a_pattern_treats_absent_fields_as_empty() -> None:
    assert matches({"reason": "", "held": 0}, {}, {})
    assert not matches({"reason": "X"}, {}, {})
    assert matches({"held": "{positive}"}, {"held": 3}, {})
    assert not matches({"held": "{positive}"}, {"held": 0}, {})
    assert matches({"uid": "{first}"}, {"uid": "7"}, {"{first}": "7"})
    assert not matches({"uid": "{first}"}, {"uid": "8"}, {"{first}": "7"})


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data.upper())
    writer.close()


async def test_the_proxy_breaks_old_connections_and_passes_new_ones() -> None:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()) as proxy:
        host, port = proxy.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"one")
        assert await reader.read(100) == b"ONE"
        proxy.blackhole()
        writer.write(b"two")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        other_writer.write(b"three")
        assert await other_reader.read(100) == b"THREE"
        proxy.cut()
        assert await reader.read(100) == b""  # the swallowed bytes never arrive
        for each in (writer, other_writer):
            each.close()
            await each.wait_closed()


EVENTS = [pb.JobEvent(uid=7, resume_token=token) for token in ("one", "two")]


class OpenWatches:
    """A gateway whose watches stay open after their events."""

    async def watch(
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[pb.WatchJobRequest, pb.JobEvent]
    ) -> None:
        for event in EVENTS:
            await context.write(event)
        await asyncio.Event().wait()

    async def __aenter__(self) -> tuple[str, int]:
        self._server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(
            self.watch,
            request_deserializer=pb.WatchJobRequest.FromString,
            response_serializer=pb.JobEvent.SerializeToString,
        )
        self._server.add_registered_method_handlers(JOB_SERVICE.full_name, {"WatchJob": handler})
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return "127.0.0.1", port

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)


@pytest.mark.parametrize(
    ("play", "by", "code"),
    [
        (Http2Proxy.end_streams, "INTERNAL", "INTERNAL"),
        (Http2Proxy.end_streams, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (Http2Proxy.reset_streams, "INTERNAL_ERROR", "INTERNAL"),
        (Http2Proxy.reset_streams, "CANCEL", "CANCELLED"),
    ],
)
async def test_the_breaker_ends_streams_and_passes_new_ones(
    play: Callable[[Http2Proxy, str], None], by: str, code: str
) -> None:
    async with (
        OpenWatches() as address,
        Http2Proxy(address) as breaker,
        grpc.aio.insecure_channel(breaker.address) as channel,
    ):
        stub = rpc.JobServiceStub(channel)
        call = stub.WatchJob(pb.WatchJobRequest(uid=7))
        assert [await call.read() for _ in EVENTS] == EVENTS
        play(breaker, by)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code().name == code
        again = stub.WatchJob(pb.WatchJobRequest(uid=7), wait_for_ready=True)
        assert [await again.read() for _ in EVENTS] == EVENTS


async def test_the_breaker_responds_to_one_call_itself() -> None:
    options = (("grpc.enable_retries", 0),)
    async with (
        OpenWatches() as address,
        Http2Proxy(address) as breaker,
        grpc.aio.insecure_channel(breaker.address, options) as channel,
    ):
        stub, messages = rpc.JobServiceStub(channel), list[str]()
        breaker.respond("503")
        while True:
            call = stub.WatchJob(pb.WatchJobRequest(uid=7), wait_for_ready=True)
            try:
                assert [await call.read() for _ in EVENTS] == EVENTS
                break
            except grpc.aio.AioRpcError as error:
                messages.append(error.details() or "")
        assert len([each for each in messages if "503" in each]) == 1


async def test_the_breaker_ends_a_stream_with_ok() -> None:
    async with (
        OpenWatches() as address,
        Http2Proxy(address) as breaker,
        grpc.aio.insecure_channel(breaker.address) as channel,
    ):
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=7))
        assert [await call.read() for _ in EVENTS] == EVENTS
        breaker.end_streams("OK")
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_the_breaker_holds_events_until_their_release() -> None:
    async with (
        OpenWatches() as address,
        Http2Proxy(address) as breaker,
        grpc.aio.insecure_channel(breaker.address) as channel,
        grpc.aio.insecure_channel("{}:{}".format(*address)) as direct,
    ):
        order = list[str]()
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=7))
        assert await call.read() == EVENTS[0]
        breaker.hold_after_bytes = 0
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=7))
        read = asyncio.ensure_future(call.read())
        read.add_done_callback(lambda _: order.append("read"))
        for _ in range(10):  # time for the read, if the breaker held nothing
            other = rpc.JobServiceStub(direct).WatchJob(pb.WatchJobRequest(uid=7))
            assert await other.read() == EVENTS[0]
        order.append("released")
        breaker.release()
        assert await read == EVENTS[0]
        assert order == ["released", "read"]


async def test_the_breaker_reports_a_failure_before_the_client() -> None:
    async with (
        OpenWatches() as address,
        Http2Proxy(address) as breaker,
        grpc.aio.insecure_channel(breaker.address) as channel,
    ):
        order = list[str]()

        async def before_failure() -> None:
            for _ in range(100):
                await asyncio.sleep(0)
            order.append("breaker")

        breaker.before_failure = before_failure
        with pytest.raises(grpc.aio.AioRpcError):
            await rpc.JobServiceStub(channel).GetJob(pb.GetJobRequest(uid=7))
        order.append("client")
        assert order == ["breaker", "client"]


def test_no_committed_lock_names_a_host() -> None:
    root = ROOT
    locks = [*root.glob("requirements*.lock"), *root.glob("clients/*/package-lock.json")]
    assert len(locks) == 5
    # npm adds addresses for donations: remove each `funding` after `npm install`.
    assert not [lock for lock in locks if re.search(r"https?://", lock.read_text())]
