"""Reactions of `run` and `watch` to broken streams, against a scripted gateway over real sockets."""

import hashlib
import itertools
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as pb_grpc
from jobgateway_client import Client, GatewayError, rules
from jobgateway_client.deadline import Deadline
from jobgateway_client.waiting import Waiting
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.client import patience
from gateway.cli.client.patience import PatientWatch
from gateway.cli.failures.failure_codes import failure_code
from gateway.errors import SubmitOutcomeUnknown
from gateway.rpc.status import to_rpc_error
from tests.cli.test_commands import start as start_command
from tests.support.terminal import Terminal

UID = 42
TOKEN = "secret-of-the-test"
# As the gateway writes it.
UNKNOWN = to_rpc_error(SubmitOutcomeUnknown("the upstream is not available (HTTP 503); try again later", 503)).message
Act = Callable[[grpc.ServicerContext], Iterator[pb.JobEvent]]


def state(percent: float, token: str = "") -> pb.JobEvent:
    job = pb.Job(uid=UID, status=pb.JOB_STATUS_RUNNING, progress=pb.Progress(message="working", percentage=percent))
    return pb.JobEvent(uid=UID, job=job, resume_token=token)


def end(result: bytes = b"", *, in_message: bool = True, sha256: str | None = None) -> pb.JobEvent:
    job = pb.Job(uid=UID, status=pb.JOB_STATUS_SUCCESS, done=True, content_size=len(result))
    if result:
        job.content_sha256 = sha256 or hashlib.sha256(result).hexdigest()
        job.content_omitted = not in_message
        if in_message:
            job.content_json = result
    return pb.JobEvent(uid=UID, job=job, resume_token="end")


def failed() -> pb.JobEvent:
    event = end()
    event.job.status = pb.JOB_STATUS_ERROR
    return event


def chunk(result: bytes, start: int, stop: int) -> pb.JobEvent:
    piece = pb.ContentChunk(offset=start, data=result[start:stop], content_size=len(result))
    return pb.JobEvent(uid=UID, content_chunk=piece, resume_token=f"chunk-{stop}")


def act(*events: pb.JobEvent, then: Callable[[grpc.ServicerContext], None] | None = None) -> Act:
    def play(context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        yield from events
        if then:
            then(context)

    return play


def failing(
    code: grpc.StatusCode,
    reason: str = "",
    *,
    retry: float | None = None,
    uid: int = 0,
    message: str = "",
    http_status: str = "",
) -> Callable[[grpc.ServicerContext], None]:
    details = []
    if reason:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="jobgateway")
        known = {"uid": str(uid) if uid else "", "http_status": http_status}
        info.metadata.update({name: value for name, value in known.items() if value})
        details.append(packed(info))
    if retry is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(retry * 1000))
        details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(
        code=code.value[0], message=message or f"it failed as {reason or code.name}", details=details
    )

    def fail(context: grpc.ServicerContext) -> None:
        context.abort_with_status(rpc_status.to_status(status))

    return fail


def packed(message: error_details_pb2.ErrorInfo) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


class ScriptedGateway(pb_grpc.JobServiceServicer):
    """Plays one act of its script per stream, and records the requests."""

    def __init__(self) -> None:
        self.script: list[Act] = []
        self.runs: list[pb.RunJobRequest] = []
        self.watches: list[pb.WatchJobRequest] = []
        self.sent: list[pb.SendJobRequest] = []
        self.times: list[float] = []
        self.peers: list[str] = []
        self.tokens: list[str] = []
        self.cancelled: list[int] = []
        self.cancel_fails = False
        self.cancel_hangs = False
        self.asked = threading.Event()
        self.target = ""
        self.stop: Callable[[], object]

    def RunJob(self, request: pb.RunJobRequest, context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        self.runs.append(request)
        return self._play(context)

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        self.watches.append(request)
        return self._play(context)

    def WatchJobs(
        self, request_iterator: Iterator[pb.WatchJobsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.JobEvent]:
        del request_iterator
        return self._play(context)

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.Job:
        self.cancelled.append(request.uid)
        if self.cancel_hangs:
            hold(context)
        if self.cancel_fails:
            failing(grpc.StatusCode.UNAVAILABLE, "DRAINING")(context)
        return pb.Job(uid=request.uid, status=pb.JOB_STATUS_CANCELLED, done=True)

    def SendJob(self, request: pb.SendJobRequest, context: grpc.ServicerContext) -> pb.Job:
        self.sent.append(request)
        return self._answer(context)

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.Job:
        return self._answer(context)

    def WaitJob(self, request: pb.WaitJobRequest, context: grpc.ServicerContext) -> pb.Job:
        return self._answer(context)

    def _answer(self, context: grpc.ServicerContext) -> pb.Job:
        self.asked.set()
        return next(self.script.pop(0)(context)).job

    def _play(self, context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        self.times.append(time.monotonic())
        self.peers.append(context.peer())
        self.tokens.append(str(dict(context.invocation_metadata())["authorization"]))
        self.asked.set()
        return self.script.pop(0)(context)


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    servicer = ScriptedGateway()
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_JobServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    servicer.stop = lambda: server.stop(None).wait()
    yield servicer
    servicer.stop()


class Outcome:
    def __init__(self, gateway: ScriptedGateway, *arguments: str) -> None:
        environment = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target}
        result = CliRunner().invoke(app, [*arguments], env=environment, catch_exceptions=False)
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        assert TOKEN not in self.out + self.err


def run(gateway: ScriptedGateway, *arguments: str) -> Outcome:
    return Outcome(gateway, "run", "--workspace", "1", "--entity", "7", *arguments)


def watch(gateway: ScriptedGateway, *arguments: str) -> Outcome:
    return Outcome(gateway, "watch", str(UID), *arguments)


def test_a_watch_resumes_on_a_new_connection_after_its_wait(
    gateway: ScriptedGateway,
) -> None:
    draining = failing(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry=0.4)
    gateway.script = [act(state(10, "first"), then=draining), act(state(50, "second"), end(b'{"sum":3}'))]
    outcome = watch(gateway)
    assert outcome.code == 0
    assert [request.resume_token for request in gateway.watches] == ["", "first"]
    assert len(set(gateway.peers)) == 2
    assert gateway.times[1] - gateway.times[0] >= 0.4
    assert outcome.out == '{"sum":3}'
    lines = outcome.err.splitlines()
    assert "resuming in 0.4 s" in lines.pop(1)
    assert lines == ["job 42 running 10%: working", "job 42 running 50%: working", "job 42 succeeded"]


def test_a_broken_run_continues_as_a_watch(gateway: ScriptedGateway) -> None:
    lost = failing(grpc.StatusCode.UNAVAILABLE)
    gateway.script = [act(state(10, "first"), then=lost), act(then=lost), act(end())]
    assert run(gateway).code == 0
    assert len(gateway.runs) == 1
    assert [(request.uid, request.resume_token) for request in gateway.watches] == [(UID, "first")] * 2


def test_a_stream_without_the_end_of_its_job_is_resumed(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10, "first")), act(end())]
    outcome = watch(gateway)
    assert outcome.code == 0
    assert "the stream ended before the job" in outcome.err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "sleep", lambda *_: None)


EVERY_CODE = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", [run, watch])
@pytest.mark.parametrize("code", EVERY_CODE)
def test_after_an_event_any_foreign_status_is_resumed(
    gateway: ScriptedGateway, command: Callable[[ScriptedGateway], Outcome], code: grpc.StatusCode
) -> None:
    gateway.script = [act(state(10, "first"), then=failing(code)), act(end())]
    assert command(gateway).code == 0
    assert gateway.watches[-1].resume_token == "first"
    assert len(set(gateway.peers)) == 2


BROKEN = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", EVERY_CODE)
def test_before_an_event_a_foreign_status_may_be_final(gateway: ScriptedGateway, code: grpc.StatusCode) -> None:
    gateway.script = [act(then=failing(code)), act(end())]
    assert watch(gateway).code == (0 if code in BROKEN else failure_code(GatewayError(code)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", EVERY_CODE)
def test_a_foreign_status_repeats_a_run_by_its_id(gateway: ScriptedGateway, code: grpc.StatusCode) -> None:
    gateway.script = [act(then=failing(code)), act(end())]
    assert run(gateway).code == 9
    assert len(gateway.runs) == 1
    gateway.script = [act(then=failing(code)), act(end())]
    assert run(gateway, "--request-id", "only-once").code == (0 if code in BROKEN else 9)
    assert not gateway.watches


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE])
def test_a_message_over_the_limit_is_not_asked_for_forever(gateway: ScriptedGateway, code: grpc.StatusCode) -> None:
    over = failing(code)
    gateway.script = [act(state(10, "first"), then=over), act(state(20, "second"), then=over), act(then=over)]
    assert watch(gateway).code == failure_code(GatewayError(code))
    assert not gateway.script


def test_a_foreign_error_info_is_not_ours(gateway: ScriptedGateway) -> None:
    info = error_details_pb2.ErrorInfo(reason="MESH_FAULT", domain="mesh.example")
    status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message="x", details=[packed(info)])

    def fail(context: grpc.ServicerContext) -> None:
        context.abort_with_status(rpc_status.to_status(status))

    gateway.script = [act(state(10, "first"), then=fail), act(end())]
    assert watch(gateway).code == 0


@pytest.mark.usefixtures("quick")
def test_an_unknown_peer_is_not_tried_for_long(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PATIENCE_SECONDS", 0.0)
    gateway.script = [act(then=failing(grpc.StatusCode.INTERNAL))]
    assert watch(gateway).code == 3


def test_a_run_whose_error_names_the_job_continues_as_a_watch(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNAVAILABLE, "DRAINING", uid=UID)), act(end())]
    assert run(gateway).code == 0
    assert len(gateway.runs) == 1
    assert [request.uid for request in gateway.watches] == [UID]


@pytest.mark.parametrize("command", ["run", "send"])
def test_an_unknown_outcome_is_said_to_be_unknown(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(then=hold)]
    outcome = Outcome(gateway, command, "--workspace", "1", "--entity", "7", "--deadline", "0.3")
    assert outcome.code == 9
    assert "the job has no number yet, and may or may not run" in outcome.err


def test_waits_grow_even_if_each_stream_begins_well(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Waiting, "sleep", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    lost = failing(grpc.StatusCode.UNAVAILABLE)
    gateway.script = [*[act(state(10), then=lost)] * 7, act(end())]
    assert watch(gateway).code == 0
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@pytest.mark.usefixtures("quick")
def test_a_reader_that_pauses_keeps_its_watch(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    later = itertools.count(time.monotonic(), 2 * patience.PATIENCE_SECONDS)
    gateway.script = [act(state(10, "first")), act(state(20, "second")), act(end())]
    with Client(gateway.target, token=TOKEN) as client:
        following = PatientWatch(client, pb.WatchJobRequest(uid=UID), Deadline(None), lambda _: None)
        percents = []
        for event in following:
            percents.append(event.job.progress.percentage)
            running = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
            assert all(timer.finished.is_set() for timer in running)
            now = next(later)
            monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda at=now: at))
    assert percents == [10, 20, 0]
    assert [request.resume_token for request in gateway.watches] == ["", "first", "second"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ours", [True, False])
def test_a_token_file_is_read_again(gateway: ScriptedGateway, tmp_path: Path, ours: bool) -> None:
    file = tmp_path / "token"
    file.write_text("stale")
    refuse = failing(grpc.StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED" if ours else "")

    def renew(context: grpc.ServicerContext) -> None:
        file.write_text("fresh")
        refuse(context)

    gateway.script = [act(then=renew), act(end())]
    assert watch(gateway, "--token-file", str(file)).code == 0
    assert gateway.tokens == ["Bearer stale", "Bearer fresh"]
    gateway.script = [act(then=refuse), act(end())]
    assert watch(gateway, "--token-file", str(file)).code == 6


def test_a_run_without_a_request_id_is_not_repeated(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"))]
    outcome = run(gateway)
    assert outcome.code == 8
    assert len(gateway.runs) == 1
    assert outcome.err == ("it failed as UPSTREAM_UNREACHABLE; try again later [UNAVAILABLE, UPSTREAM_UNREACHABLE]\n")


def test_the_wait_that_the_gateway_asks_for_is_shown(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_IDS_EXHAUSTED", retry=60))]
    outcome = run(gateway, "--request-id", "x")
    assert outcome.code == 8
    assert "; try again in 60 s [RESOURCE_EXHAUSTED, REQUEST_IDS_EXHAUSTED]\n" in outcome.err


@pytest.mark.parametrize(
    "detail",
    [
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"),
        packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2**62))),
    ],
)
def test_details_that_are_none_are_no_traceback(gateway: ScriptedGateway, detail: any_pb2.Any) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="gone", details=[detail])

    def fail(context: grpc.ServicerContext) -> None:
        context.abort_with_status(rpc_status.to_status(status))

    gateway.script = [act(then=fail)]
    outcome = Outcome(gateway, "get", str(UID))
    assert outcome.code == 7
    assert outcome.err.startswith("gone; ")


def test_a_run_with_a_request_id_is_repeated(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNAVAILABLE, "DRAINING")), act(end())]
    assert run(gateway, "--request-id", "only-once").code == 0
    assert [request.request.request_id for request in gateway.runs] == ["only-once"] * 2


@pytest.mark.parametrize("reason", ["LIMIT_REACHED", ""])
@pytest.mark.parametrize("retry", [0.01, None])
def test_a_load_limit_is_retried_only_with_a_known_wait(
    gateway: ScriptedGateway, retry: float | None, reason: str
) -> None:
    busy = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, retry=retry)
    gateway.script = [act(then=busy), act(end())]
    assert watch(gateway).code == (0 if retry else 8)


def test_a_final_error_ends_a_run_and_names_the_job(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10, "first"), then=failing(grpc.StatusCode.PERMISSION_DENIED, "UPSTREAM_NO"))]
    outcome = run(gateway)
    assert outcome.code == 6
    assert f"jobgateway watch 42 --target {gateway.target}" in outcome.err


def test_an_outage_is_not_waited_for_without_end(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    gateway.script = [act(state(10), then=failing(grpc.StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE"))]
    assert watch(gateway).code == 3


@pytest.mark.parametrize("command", [run, watch])
def test_a_silent_stream_is_resumed(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, command: Callable[[ScriptedGateway], Outcome]
) -> None:
    monkeypatch.setattr(rules, "HEARTBEAT_SECONDS", 0.1)
    left = threading.Event()

    def keep_silent(context: grpc.ServicerContext) -> None:
        context.add_callback(left.set)
        left.wait()

    # On a busy machine, more streams may be silent for 0.3 seconds.
    gateway.script = [act(state(10, "first"), then=keep_silent), *[act(end())] * 1_000]
    assert command(gateway).code == 0
    assert left.is_set()
    assert gateway.watches[-1].resume_token == "first"


# A gateway that ends a stream, after a state that has arrived, and with the time of the command.
DRAINING = failing(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry=60)
NO_TIME = "the 30 s of --deadline leave no time for another attempt (it failed as DRAINING)"


def test_a_deadline_bounds_each_stream_and_the_waits_between(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(1), then=DRAINING)]
    outcome = watch(gateway, "--deadline", "30")
    again = f"job 42 continues, watch it again: jobgateway watch 42 --target {gateway.target}\n"
    assert outcome.code == 124
    assert outcome.err.endswith(f"\n{NO_TIME}; {again}")
    gateway.script = [act(state(1), then=hold)]
    outcome = watch(gateway, "--deadline", "0.3")
    assert outcome.code == 124
    assert outcome.err.splitlines()[-1].startswith("the 0.3 s of --deadline passed; ")


def unreadable(failures: int = 1) -> pb.JobEvent:
    heartbeat = pb.Heartbeat(consecutive_failures=failures, last_failure="UPSTREAM_TIMEOUT")
    return pb.JobEvent(uid=UID, heartbeat=heartbeat)


@pytest.mark.parametrize("command", ["watch", "wait"])
@pytest.mark.parametrize("output", ["text", "json", "name"])
def test_an_outage_of_the_upstream_is_told_soon_and_once(gateway: ScriptedGateway, command: str, output: str) -> None:
    again = pb.JobEvent(uid=UID, heartbeat=pb.Heartbeat())
    gateway.script = [act(state(1), again, unreadable(1), unreadable(2), again, again, unreadable(1), end())]
    outcome = Outcome(gateway, command, str(UID), "-o", output)
    assert outcome.code == 0
    assert gateway.watches[0].heartbeat_interval.seconds == 3
    if output == "json" and command == "watch":
        events = [json.loads(line) for line in outcome.out.splitlines()]
        assert [each["heartbeat"].get("last_failure") for each in events if "heartbeat" in each] == [
            "UPSTREAM_TIMEOUT",
            None,
            "UPSTREAM_TIMEOUT",
        ]
    else:
        line = "job 42: upstream failing (UPSTREAM_TIMEOUT), 1 time in a row; still trying\n"
        assert outcome.err.count("still trying") == outcome.err.count(line) == 2


@pytest.mark.parametrize(
    ("command", "option"), [("watch", "--deadline"), ("wait", "--deadline"), ("wait", "--timeout")]
)
def test_a_time_limit_names_the_outage_of_the_upstream(gateway: ScriptedGateway, command: str, option: str) -> None:
    gateway.script = [act(unreadable(), then=hold)]
    outcome = Outcome(gateway, command, str(UID), option, "2")
    assert outcome.code == 124
    assert f"the 2 s of {option} passed while the upstream was failing (UPSTREAM_TIMEOUT)" in outcome.err
    gateway.script = [act(unreadable(), state(1), then=hold)]
    assert "failing (UPSTREAM_TIMEOUT)" not in Outcome(gateway, command, str(UID), option, "0.3").err.splitlines()[-1]


@pytest.mark.parametrize("command", ["watch", "wait"])
def test_a_job_without_any_state_is_not_said_to_continue(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(then=hold)]
    outcome = Outcome(gateway, command, str(UID), "--deadline", "0.3")
    again = f"{command} {'it ' if command == 'watch' else ''}again: jobgateway {command} 42 --target {gateway.target}"
    assert outcome.err == f"the 0.3 s of --deadline passed; no state of job 42 arrived, {again}\n"


@pytest.mark.parametrize("request_id", ["", "order-1"])
@pytest.mark.parametrize("command", ["send", "run"])
def test_an_unknown_outcome_is_told_for_this_command(gateway: ScriptedGateway, command: str, request_id: str) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN", message=UNKNOWN))]
    options = ["--request-id", request_id] if request_id else []
    outcome = Outcome(gateway, command, "--workspace", "1", "--entity", "7", "-o", "json", *options)
    then = "the job has no number yet, and may or may not run: "
    if request_id:
        then += "the same command finds it by its --request-id order-1"
    else:
        then += "look in the VIKTOR app before you send it again"
    problem = "the upstream is not available (HTTP 503)"
    assert outcome.code == 9
    assert outcome.err == f"{problem} [UNKNOWN, SUBMIT_OUTCOME_UNKNOWN]\n{then}\n"
    assert error_of(outcome)["message"] == f"{problem}; {then}"


@pytest.mark.parametrize("command", ["get", "wait", "watch", "cancel"])
def test_a_missing_token_names_the_job_in_json(command: str) -> None:
    result = CliRunner().invoke(app, [command, "5", "-o", "json"], env={"JOBGATEWAY_TOKEN": ""})
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"], error["uid"]) == (6, "UNAUTHENTICATED", "5")


def error_of(outcome: Outcome) -> dict[str, object]:
    error = json.loads(outcome.out.splitlines()[-1])["error"]
    assert isinstance(error, dict)
    return error


def test_a_deadline_names_the_job_in_json(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(1), then=DRAINING)]
    error = error_of(watch(gateway, "--deadline", "30", "-o", "json"))
    assert (error["code"], error["uid"]) == ("DEADLINE_EXCEEDED", "42")
    assert str(error["message"]).startswith(f"{NO_TIME}; job 42 continues, watch it again: ")


@pytest.mark.parametrize("command", ["send", "run"])
def test_a_deadline_leaves_the_outcome_of_a_submission_open(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(then=hold)]
    outcome = Outcome(gateway, command, "--workspace", "1", "--entity", "7", "--deadline", "0.3", "-o", "json")
    open_outcome = "the job has no number yet, and may or may not run: look in the VIKTOR app before you send it again"
    assert outcome.code == 9
    assert error_of(outcome)["message"] == f"the 0.3 s of --deadline passed; {open_outcome}"
    assert outcome.err == f"the 0.3 s of --deadline passed; {open_outcome}\n"


@pytest.mark.parametrize("command", ["send", "run"])
def test_an_unknown_outcome_is_told_in_json(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNAVAILABLE))]
    outcome = Outcome(gateway, command, "--workspace", "1", "--entity", "7", "-o", "json")
    assert outcome.code == 9
    assert str(error_of(outcome)["message"]).endswith(
        "may or may not run: look in the VIKTOR app before you send it again"
    )


def test_a_rejected_job_is_not_in_doubt_at_the_deadline(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", retry=60))]
    outcome = run(gateway, "--deadline", "30")
    assert outcome.code == 8
    assert outcome.err == "it failed as LIMIT_REACHED; try again in 60 s [RESOURCE_EXHAUSTED, LIMIT_REACHED]\n"


def test_a_quick_call_has_a_deadline_and_names_its_job(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=hold)]
    outcome = Outcome(gateway, "get", str(UID), "--deadline", "0.3", "-o", "json")
    assert outcome.code == 124
    assert (error_of(outcome)["message"], error_of(outcome)["uid"]) == (
        "the 0.3 s of --deadline passed; give it more time",
        "42",
    )


@pytest.mark.parametrize("command", ["get", "wait", "watch"])
def test_an_error_without_a_uid_is_about_the_argument(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.PERMISSION_DENIED))]
    assert error_of(Outcome(gateway, command, str(UID), "-o", "json"))["uid"] == "42"


def test_chunks_are_cut_to_their_offset_and_checked(gateway: ScriptedGateway, tmp_path: Path) -> None:
    result = json.dumps({"text": "x" * 100}).encode()
    file = tmp_path / "result.json"
    lost = failing(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    gateway.script = [
        act(state(99), chunk(result, 0, 40), chunk(result, 40, 80), then=lost),
        act(chunk(result, 0, 60), chunk(result, 60, len(result)), end(result, in_message=False)),
    ]
    outcome = watch(gateway, "--save", str(file))
    assert outcome.code == 0
    assert file.read_bytes() == result
    assert gateway.watches[0].content_format == pb.CONTENT_FORMAT_JSON_CHUNKS
    assert gateway.watches[1].resume_token == "chunk-80"
    assert "job 42 result: 112 of 112 bytes" in outcome.err
    assert f"result: 112 bytes in {file}" in outcome.err


def test_a_damaged_result_is_no_result(gateway: ScriptedGateway, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    gateway.script = [act(chunk(b"damaged", 0, 7), end(b"result!", in_message=False))]
    outcome = watch(gateway, "--save", str(file))
    assert outcome.code == 3
    assert "SHA-256" in outcome.err
    assert not file.exists()


def test_a_result_of_which_nothing_came_is_no_result(gateway: ScriptedGateway) -> None:
    gateway.script = [act(end(b"result!", in_message=False))]
    outcome = watch(gateway)
    assert (outcome.code, outcome.out) == (3, "")
    assert "none of its 7 bytes arrived; get it again" in outcome.err


def test_a_large_result_is_ten_lines(gateway: ScriptedGateway, tmp_path: Path) -> None:
    result = b"1" * 1000
    chunks = [chunk(result, start, start + 10) for start in range(0, 1000, 10)]
    gateway.script = [act(*chunks, end(result, in_message=False))]
    outcome = watch(gateway, "--save", str(tmp_path / "result.json"))
    progress = [line for line in outcome.err.splitlines() if "of 1,000 bytes" in line]
    assert progress == [f"job 42 result: {size:,} of 1,000 bytes" for size in range(100, 1001, 100)]


@pytest.mark.slow
def test_a_pipe_gets_the_chunks_and_nothing_else(gateway: ScriptedGateway) -> None:
    result = b'[1,  2.50, "\xff"]'
    lost = failing(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    gateway.script = [
        act(state(50), chunk(result, 0, 9), then=lost),
        act(chunk(result, 9, len(result)), end(result, in_message=False)),
    ]
    with start(gateway, "watch", str(UID)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.buffer.read() == result  # type: ignore[attr-defined]
        err = process.stderr.read()
    assert process.returncode == 0
    for line in ("job 42 running 50%: working", "resuming in", "job 42 result: 15 of 15 bytes", "job 42 succeeded"):
        assert line in err


def test_json_lines_are_the_events_and_nothing_else(gateway: ScriptedGateway) -> None:
    heartbeat = pb.JobEvent(uid=UID, heartbeat=pb.Heartbeat(consecutive_failures=2, last_failure="UPSTREAM_TIMEOUT"))
    lost = failing(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    result = b'[1,\r\n 3, 18446744073709551617, 1.10, "\xc2\x9b"]'
    gateway.script = [act(state(10, "t"), chunk(result, 0, 9), heartbeat, then=lost), act(end(result))]
    outcome = watch(gateway, "-o", "json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [next(name for name in event if name not in ("uid", "resume_token")) for event in events] == [
        "job",
        "heartbeat",
        "job",
    ]
    assert events[1]["heartbeat"] == {"consecutive_failures": 2, "last_failure": "UPSTREAM_TIMEOUT"}
    # Only its line breaks are replaced.
    assert outcome.out.endswith(', "result": [1,   3, 18446744073709551617, 1.10, "\x9b"]}\n')
    assert "content_json" not in outcome.out


@pytest.mark.parametrize("command", ["watch", "get", "wait"])
def test_a_saved_result_is_named_in_json(gateway: ScriptedGateway, command: str, tmp_path: Path) -> None:
    file, result = tmp_path / "result.json", b"[1, 2.50]"
    stream = act(chunk(result, 0, len(result)), end(result, in_message=False))
    gateway.script = [stream] if command == "watch" else [act(end(result, in_message=False)), stream]
    outcome = Outcome(gateway, command, str(UID), "-o", "json", "--save", str(file))
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["result_file"] == str(file)
    assert "result" not in document
    assert file.read_bytes() == result


def test_a_failure_is_a_json_object(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNAVAILABLE, "NO_STATE_YET", retry=1.5, uid=UID))]
    outcome = Outcome(gateway, "get", str(UID), "-o", "json")
    assert json.loads(outcome.out) == {
        "error": {
            "code": "UNAVAILABLE",
            "reason": "NO_STATE_YET",
            "message": "it failed as NO_STATE_YET",
            "fields": [],
            "retry_after_seconds": 1.5,
            "uid": "42",
        }
    }
    assert outcome.err.count("\n") == 1


def test_wrong_usage_is_a_json_object(gateway: ScriptedGateway) -> None:
    outcome = run(gateway, "--param", "x", "-o", "json")
    assert outcome.code == 2
    error = json.loads(outcome.out)["error"]
    assert (error["code"], error["message"] + "\n") == ("USAGE", outcome.err)


@pytest.mark.parametrize("command", ["run", "watch"])
def test_a_name_is_the_uid_and_no_result_is_requested(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(state(10), state(20), end())]
    outcome = (run if command == "run" else watch)(gateway, "-o", "name")
    assert (outcome.code, outcome.out) == (0, "42\n")
    formats = [each.request.content_format for each in gateway.runs]
    formats += [each.content_format for each in gateway.watches]
    assert formats == [pb.CONTENT_FORMAT_NONE]


@pytest.mark.parametrize("command", ["get", "wait", "cancel"])
def test_a_response_has_a_name_and_json(gateway: ScriptedGateway, command: str) -> None:
    gateway.script = [act(state(10)), act(state(10))]
    options = ["--timeout", "0"] if command == "wait" else []
    assert Outcome(gateway, command, str(UID), "-o", "name", *options).out == "42\n"
    assert json.loads(Outcome(gateway, command, str(UID), "-o", "json", *options).out)["uid"] == "42"


def test_control_characters_of_a_job_do_not_reach_the_terminal(gateway: ScriptedGateway) -> None:
    event = state(10)
    event.job.progress.message = "\x1b[2J[red]not red[/]\nsecond\x9b31m \u202egnp"
    gateway.script = [act(event, end())]
    line = watch(gateway).err.splitlines()[0]
    assert line == "job 42 running 10%: \ufffd[2J[red]not red[/] second\ufffd31m \ufffdgnp"


def test_an_event_of_an_unknown_kind_is_ignored(gateway: ScriptedGateway) -> None:
    gateway.script = [act(pb.JobEvent(uid=UID), end())]
    outcome = watch(gateway)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "job 42 succeeded\n")


def test_a_wait_continues_after_an_outage_and_shows_no_progress(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10), then=failing(grpc.StatusCode.UNAVAILABLE)), act(state(20), unreadable(2), end())]
    outcome = Outcome(gateway, "wait", str(UID))
    assert (outcome.code, outcome.out) == (0, "")
    resumed, *others = outcome.err.splitlines()
    assert "resuming in" in resumed
    assert others == ["job 42: upstream failing (UPSTREAM_TIMEOUT), 2 times in a row; still trying", "job 42 succeeded"]


def test_a_wait_that_gives_up_says_how_to_wait_again(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    lost = failing(grpc.StatusCode.UNAVAILABLE)
    gateway.script = [act(state(10), then=lost), act(then=lost)]
    outcome = Outcome(gateway, "wait", str(UID), "-o", "json")
    again = f"wait again: jobgateway wait 42 --target {gateway.target}"
    assert outcome.code == 8
    assert outcome.err.endswith(f"\n{again}\n")
    assert str(error_of(outcome)["message"]).endswith(f"; {again}")


@pytest.mark.parametrize("option", ["--timeout", "--deadline"])
def test_a_wait_that_ends_before_the_job_has_its_own_code(gateway: ScriptedGateway, option: str) -> None:
    gateway.script = [act(state(10), then=DRAINING)]
    outcome = Outcome(gateway, "wait", str(UID), option, "30")
    assert outcome.code == 124
    if option == "--timeout":
        assert outcome.err.startswith("job 42 running 10%: working\nwatch it: jobgateway watch 42 ")
    else:
        again = f"wait again: jobgateway wait 42 --target {gateway.target}"
        assert outcome.err == f"{NO_TIME}; job 42 continues, {again}\n"


def test_a_wait_without_any_state_says_so_at_its_timeout(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=hold)]
    outcome = Outcome(gateway, "wait", str(UID), "--timeout", "0.3", "-o", "json")
    assert outcome.code == 124
    assert (error_of(outcome)["code"], error_of(outcome)["uid"]) == ("DEADLINE_EXCEEDED", "42")
    assert str(error_of(outcome)["message"]).startswith(
        "the 0.3 s of --timeout passed before the first state of job 42 arrived; wait again: "
    )


def nameless() -> pb.JobEvent:
    event = end(b"x" * 5000, in_message=False)
    event.uid = event.job.uid = 0
    return event


def test_a_job_without_a_number_is_not_watched(gateway: ScriptedGateway, tmp_path: Path) -> None:
    said = "the job has no number, and its result cannot be fetched later"
    file = tmp_path / "result.json"
    for options, code in ((["-o", "name"], 0), ([], 3), (["--save", str(file)], 3)):
        gateway.script = [act(nameless())]
        outcome = Outcome(gateway, "send", "--workspace", "1", "--entity", "7", *options)
        assert outcome.code == code
        assert (said in outcome.err) is (code == 3)
        assert "jobgateway watch" not in outcome.err
    assert not gateway.watches
    assert not file.exists()


def test_a_result_for_a_file_comes_as_a_stream(gateway: ScriptedGateway, tmp_path: Path) -> None:
    file, result = tmp_path / "result.json", b"[1, 2.50]"
    gateway.script = [
        act(end(result, in_message=False)),
        act(chunk(result, 0, len(result)), end(result, in_message=False)),
    ]
    assert Outcome(gateway, "get", str(UID), "--save", str(file)).code == 0
    assert file.read_bytes() == result


@pytest.mark.parametrize("command", ["get", "watch"])
def test_a_result_file_never_has_an_earlier_result(gateway: ScriptedGateway, command: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = [command, str(UID), "--save", str(file)]
    gateway.script = [act(end())]
    assert f"there is no result, so {file} was not written\n" in Outcome(gateway, *options).err
    assert not file.exists()
    file.write_text("earlier")
    gateway.script = [act(end())]
    outcome = Outcome(gateway, *options)
    assert (outcome.code, file.read_text()) == (0, "")
    assert outcome.err.endswith(f"there is no result, so {file} is empty now\n")


def test_a_result_file_is_kept_unless_a_job_succeeded(gateway: ScriptedGateway, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("earlier")
    for last in (state(10), end(b"result!", in_message=False), failed()):
        gateway.script = [act(last), act(last)]
        assert Outcome(gateway, "get", str(UID), "--save", str(file)).out == ""
        assert file.read_text() == "earlier"


def test_a_refusal_that_is_not_of_the_api_is_not_to_be_reported(gateway: ScriptedGateway) -> None:
    for status, advice in (("401", "check the token, or ask the operator"), ("404", "ask the operator")):
        gateway.script = [act(then=failing(grpc.StatusCode.INTERNAL, "UPSTREAM_MALFORMED", http_status=status))]
        outcome = Outcome(gateway, "get", str(UID))
        assert f"it failed as UPSTREAM_MALFORMED; {advice} of the gateway" in outcome.err
        assert "report" not in outcome.err


def test_an_unsuitable_peer_is_no_traceback(gateway: ScriptedGateway) -> None:
    gateway.script = [act(then=failing(grpc.StatusCode.UNIMPLEMENTED))]
    outcome = Outcome(gateway, "get", str(UID))
    assert outcome.code == 3
    assert "is this the address of a Job Gateway?" in outcome.err


def start(gateway: ScriptedGateway, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return start_command(*arguments, variables={"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target})


def hold(context: grpc.ServicerContext) -> None:
    left = threading.Event()
    context.add_callback(left.set)
    left.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing was cancelled; the job has no number yet, and may or may not run: look in the VIKTOR app before"),
        (["--cancel-on-interrupt"], "nothing was cancelled; the job has no number yet, and may or may not run"),
        (["--request-id", "x"], "the same command finds it by its --request-id"),
    ],
)
def test_an_interrupt_before_the_job_has_a_name_says_so(
    gateway: ScriptedGateway, options: list[str], said: str
) -> None:
    gateway.script = [act(then=hold)]
    with start(gateway, "run", "--workspace", "1", "--entity", "7", *options) as process:
        gateway.asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert said in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [False, True])
def test_an_interrupt_leaves_the_job_or_cancels_it(gateway: ScriptedGateway, cancel: bool) -> None:
    gateway.script = [act(state(10), then=hold)]
    options = ["--cancel-on-interrupt"] if cancel else []
    with start(gateway, "run", "--workspace", "1", "--entity", "7", *options) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "job 42 running 10%: working\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert gateway.cancelled == ([UID] if cancel else [])
    if cancel:
        assert "asked to cancel; state: job 42 cancelled" in err
    else:
        assert f"jobgateway watch 42 --target {gateway.target}" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "columns", "moved"),
    [("watch", 80, "1 s"), ("wait", len("* waiting for job 42 to end  0 s"), "to end  1")],
)
def test_ctrl_c_erases_the_moving_lines(gateway: ScriptedGateway, command: str, columns: int, moved: str) -> None:
    gateway.script = [act(state(10), state(20), then=hold)]
    variables = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target, "TERM": "xterm-256color"}
    with Terminal(columns) as terminal:
        with start_command(command, str(UID), terminal=terminal.fd, variables=variables) as process:
            # Later than the first lines, which the thread that is interrupted draws itself.
            terminal.wait_for(moved)
            terminal.type(b"\x03")
            assert process.wait() == -signal.SIGINT
        assert terminal.lines()[0].startswith("interrupted; job 42")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["send", "--workspace", "1", "--entity", "7"], "sending the job  "),
        (["get", str(UID)], "reading job 42  "),
        (["get", str(UID), "--save", "/dev/null"], "receiving the result of job 42  "),
        (["cancel", str(UID)], "cancelling job 42  "),
    ],
)
def test_a_call_shows_on_a_terminal_that_it_waits(gateway: ScriptedGateway, arguments: list[str], shown: str) -> None:
    gateway.script = [*([act(end(b"{}"))] if "--save" in arguments else []), act(then=hold)]
    gateway.cancel_hangs = True
    variables = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target, "TERM": "xterm-256color"}
    with Terminal(80) as terminal:
        with start_command(*arguments, terminal=terminal.fd, variables=variables) as process:
            terminal.wait_for(shown)
            terminal.type(b"\x03")
            process.wait()
        lines = terminal.lines()
        assert shown not in "\n".join(lines)
        assert any(line.startswith("interrupted") for line in lines)


@pytest.mark.slow
def test_an_interrupted_result_is_of_a_job_that_has_ended(gateway: ScriptedGateway) -> None:
    gateway.script = [act(chunk(b"[1, 2.50]", 0, 4), then=hold)]
    with start(gateway, "watch", str(UID)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "job 42 result: 4 of 9 bytes\n"
        process.send_signal(signal.SIGINT)
        assert "interrupted; job 42 has ended, watch it again: " in process.stderr.read()
        assert process.wait() == -signal.SIGINT


@pytest.mark.slow
def test_a_cancellation_that_fails_keeps_the_code_of_the_signal(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10), then=hold)]
    gateway.cancel_fails = True
    with start(gateway, "watch", str(UID), "--cancel-on-interrupt") as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().splitlines()[-2:] == [
            "interrupted; cancelling job 42",
            "cancelling job 42 failed (it failed as DRAINING), so it may continue; "
            f"try again: jobgateway cancel 42 --target {gateway.target}",
        ]
        assert process.wait() == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_cancellation_is_one_object(gateway: ScriptedGateway, fails: bool) -> None:
    gateway.script = [act(state(10), then=hold)]
    gateway.cancel_fails = fails
    with start(gateway, "watch", str(UID), "--cancel-on-interrupt", "-o", "json") as process:
        assert process.stdout is not None
        assert "job" in json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    (error,) = [each["error"] for each in map(json.loads, out.splitlines()) if "error" in each]
    assert (error["code"], error["uid"]) == ("INTERRUPTED", "42")
    assert error["message"] == err.splitlines()[-1]
    assert error["reason"] == ("DRAINING" if fails else None)


@pytest.mark.slow
def test_a_failed_cancellation_names_a_gateway_that_is_gone(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10), then=hold)]
    with start(gateway, "watch", str(UID), "--cancel-on-interrupt") as process:
        assert process.stderr is not None
        process.stderr.readline()
        gateway.stop()
        assert "job 42: the connection to the gateway was lost; resuming in" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().splitlines()[-1]
    cause = f"{gateway.target} cannot be reached (Connection refused)"
    assert last == (
        f"cancelling job 42 failed ({cause}), so it may continue; "
        f"try again: jobgateway cancel 42 --target {gateway.target}"
    )


@pytest.mark.slow
def test_a_name_on_a_terminal_has_a_line_of_its_own(gateway: ScriptedGateway) -> None:
    gateway.script = [act(state(10), state(20), end())]
    variables = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target, "TERM": "xterm-256color"}
    with Terminal(80) as terminal:
        with start_command(
            "run", "--workspace=1", "--entity=7", "--output=name", terminal=terminal.fd, variables=variables
        ) as process:
            assert process.wait() == 0
        assert terminal.lines() == [
            "42",
            "job 42 running 10%: working",
            "job 42 running 20%: working",
            "job 42 succeeded",
        ]


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(gateway: ScriptedGateway) -> None:
    go_on = threading.Event()

    def play(context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        yield state(10)
        go_on.wait()
        yield state(20)
        yield end()

    gateway.script = [play]
    with start(gateway, "watch", str(UID), "-o", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        go_on.set()
        assert process.stderr.read() == ""
        assert process.wait() == 141
