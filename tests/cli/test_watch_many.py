"""`watch` with several jobs, against a scripted gateway over real sockets."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError
from jobgateway_client.deadline import Deadline
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.client import patience
from gateway.cli.client.exit_messages import failed_many
from gateway.cli.client.session import Session
from gateway.cli.options.shared import CallOptions
from tests.cli.test_commands import start
from tests.support.many_jobs import (
    End,
    Hold,
    ManyJobsGateway,
    Read,
    ReadAll,
    beat,
    chunk,
    end,
    failure,
    state,
    synced,
)
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from typer.testing import Result

TOKEN = "token-of-the-test"
CODE = grpc.StatusCode
RESULT = pb.JobEvent(uid=2, content_chunk=pb.ContentChunk(data=b"1", content_size=2))


def watch(gateway: ManyJobsGateway, *arguments: str) -> Result:
    environment = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": gateway.target}
    return CliRunner().invoke(app, ["watch", *arguments], env=environment, catch_exceptions=False)


def test_several_jobs_get_a_line_each_and_a_total() -> None:
    with ManyJobsGateway([Read(3), *map(state, (1, 2, 3)), synced(3), end(2), end(1), end(3), ReadAll()]) as gateway:
        outcome = watch(gateway, "1", "2", "3", "2")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout == "job 2 succeeded\njob 1 succeeded\njob 3 succeeded\n3 jobs: 3 succeeded\n"
    [stream] = gateway.streams
    assert stream.half_closed
    # The results are not requested.
    assert {each.watch.content_format for each in stream.requests} == {pb.CONTENT_FORMAT_NONE}


def test_a_job_that_does_not_succeed_decides_the_exit_code() -> None:
    with ManyJobsGateway([Read(2), end(1), end(2, pb.JOB_STATUS_TIMEOUT), ReadAll()]) as gateway:
        outcome = watch(gateway, "1", "2")
    assert outcome.exit_code == 1
    assert outcome.stdout.endswith("job 2 timed out\n2 jobs: 1 succeeded, 1 timed out\n")


@pytest.mark.parametrize("also_failed", [False, True])
def test_a_job_that_cannot_be_watched_is_a_failed_call(also_failed: bool) -> None:
    refused = failure(1, CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")
    last = end(2, pb.JOB_STATUS_ERROR if also_failed else pb.JOB_STATUS_SUCCESS)
    with ManyJobsGateway([Read(2), refused, last, ReadAll()]) as gateway:
        outcome = watch(gateway, "1", "2")
    assert outcome.exit_code == 7
    assert outcome.stderr.startswith("job 1: it failed; check the ids")
    assert outcome.stdout.endswith(f"2 jobs: 1 {'failed' if also_failed else 'succeeded'}, 1 unknown\n")


def test_json_is_an_object_for_each_event_of_a_job() -> None:
    result = b'{"data": 1}'
    unreadable = pb.JobEvent(uid=2, heartbeat=pb.Heartbeat(consecutive_failures=1, last_failure="UPSTREAM_TIMEOUT"))
    script = [
        *(Read(2), state(1), synced(2), beat(), unreadable, chunk(1, result, 0, 11), end(1, result=result)),
        *(failure(2, CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND"), ReadAll()),
    ]
    with ManyJobsGateway(script) as gateway:
        outcome = watch(gateway, "-o", "json", "1", "2")
    assert outcome.exit_code == 7
    assert outcome.stderr.startswith("job 2: it failed; check the ids")
    events: list[dict[str, Any]] = [json.loads(line) for line in outcome.stdout.splitlines()]
    kinds = ["job", "heartbeat", "job", "error"]
    assert [next(kind for kind in kinds if kind in event) for event in events] == kinds
    assert events[1]["uid"] == "2"
    assert events[-2]["result"] == {"data": 1}
    assert events[-1]["error"]["uid"] == "2"
    assert events[-1]["error"]["code"] == "NOT_FOUND"
    assert events[-1]["error"]["reason"] == "UPSTREAM_NOT_FOUND"
    assert gateway.streams[0].requests[0].watch.content_format == pb.CONTENT_FORMAT_JSON


def test_names_are_the_uids_of_jobs_that_have_ended() -> None:
    with ManyJobsGateway([Read(2), end(2), end(1), ReadAll()]) as gateway:
        outcome = watch(gateway, "-o", "name", "1", "2")
    assert (outcome.exit_code, outcome.stdout) == (0, "2\n1\n")
    assert outcome.stderr.endswith("2 jobs: 2 succeeded\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_result_fails_its_job(as_json: bool) -> None:
    script = [Read(2), chunk(1, b"{}", 0, 2), end(1, result=b"{}", sha256="0" * 64), end(2), ReadAll()]
    with ManyJobsGateway(script) as gateway:
        outcome = watch(gateway, "1", "2", *(["-o", "json"] if as_json else []))
    assert outcome.exit_code == 3
    assert "their SHA-256 is wrong" in (outcome.stdout if as_json else outcome.stderr)


def test_resumptions_and_retries_are_remarks() -> None:
    again = failure(1, CODE.RESOURCE_EXHAUSTED, "LIMIT_REACHED", retry_delay=0.01)
    scripts = ([Read(2), again, Read(1), state(1), End(CODE.UNAVAILABLE, "DRAINING")], [Read(2), end(1), end(2)])
    with ManyJobsGateway(*scripts) as gateway:
        outcome = watch(gateway, "1", "2")
    assert outcome.exit_code == 0
    retried, resumed = outcome.stderr.splitlines()
    assert retried.startswith("job 1: it failed; resuming in 0.")
    assert resumed.startswith("it failed; resuming in 0.")


def test_a_job_that_cannot_be_read_now_is_a_remark() -> None:
    unreadable = pb.JobEvent(uid=2, heartbeat=pb.Heartbeat(consecutive_failures=1, last_failure="UPSTREAM_TIMEOUT"))
    with ManyJobsGateway([Read(2), unreadable, end(1), end(2), ReadAll()]) as gateway:
        outcome = watch(gateway, "1", "2")
    assert outcome.stderr == "job 2: upstream failing (UPSTREAM_TIMEOUT), 1 time in a row; still trying\n"


def test_a_final_status_of_the_stream_fails_the_call() -> None:
    with ManyJobsGateway([End(CODE.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED")]) as gateway:
        outcome = watch(gateway, "1", "2")
    assert (outcome.exit_code, outcome.stdout) == (6, "")
    assert "UPSTREAM_PERMISSION_DENIED" in outcome.stderr


def test_the_patience_with_a_silent_gateway_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    with ManyJobsGateway([Read(2), state(1), End(CODE.UNAVAILABLE)], [End(CODE.UNAVAILABLE)]) as gateway:
        outcome = watch(gateway, "1", "2")
    assert outcome.exit_code == 8
    assert len(gateway.streams) == 2


def test_an_address_without_a_gateway_is_tried_once() -> None:
    with ManyJobsGateway() as gateway:
        pass
    outcome = watch(gateway, "1", "2")
    assert outcome.exit_code == 8
    assert "cannot be reached" in outcome.stderr
    assert "resuming" not in outcome.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_deadline_names_each_job_that_continues(as_json: bool) -> None:
    with ManyJobsGateway([Read(3), *map(state, (1, 2, 3)), end(2), Hold()]) as gateway:
        outcome = watch(gateway, "1", "2", "3", "--deadline", "0.5", *(["-o", "json"] if as_json else []))
    again = f"watch them again: jobgateway watch 1 3 --target {gateway.target}"
    said = f"the 0.5 s of --deadline passed; 2 jobs continue, {again}"
    assert (outcome.exit_code, outcome.stderr) == (124, f"{said}\n")
    if as_json:
        errors = [json.loads(line)["error"] for line in outcome.stdout.splitlines()[-2:]]
        assert [(each["uid"], each["message"]) for each in errors] == [("1", said), ("3", said)]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "no state of 2 jobs arrived, watch them again: jobgateway watch 1 2"),
        ([state(2)], "1 job continues and no state of 1 job arrived, watch them again: jobgateway watch 1 2"),
        ([state(1), state(2), RESULT], "2 jobs continue, watch them again: jobgateway watch 1 2"),
        ([RESULT, end(2), state(1)], "job 1 continues, watch it again: jobgateway watch 1"),
        ([RESULT, end(2)], "no state of job 1 arrived, watch it again: jobgateway watch 1"),
    ],
)
def test_only_jobs_with_a_state_are_said_to_continue(
    events: list[pb.JobEvent], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The time is over.
    call = CallOptions(target="there:1", deadline=0.05)
    with Client(call.target) as client:
        session = Session(client, call.target, Deadline(call.deadline), call=call)
        for each in events:
            session.note(each)
        ended = {each.uid for each in events if each.job.done}
        with pytest.raises(typer.Exit):
            failed_many(session, GatewayError(CODE.DEADLINE_EXCEEDED), sorted({1, 2} - ended), began=True)
    assert capsys.readouterr().err == f"the 0.05 s of --deadline passed; {said}\n"


def test_an_output_file_is_for_one_job() -> None:
    with ManyJobsGateway() as gateway:
        outcome = watch(gateway, "1", "2", "--save", "file")
    assert outcome.exit_code == 2
    assert outcome.stderr == "--save is for the result of one job: give one UID\n"


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [False, True])
def test_an_interrupt_leaves_the_jobs_or_cancels_them(cancel: bool) -> None:
    with ManyJobsGateway([Read(3), end(2), Hold()]) as gateway:
        options = ["--cancel-on-interrupt"] if cancel else []
        with start("watch", "1", "2", "3", *options, variables={"JOBGATEWAY_TARGET": gateway.target}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "job 2 succeeded\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "3 jobs" not in out
    assert gateway.cancelled == ([1, 3] if cancel else [])
    if cancel:
        assert err.count("asked to cancel; state: job") == 2
    else:
        again = f"watch them again: jobgateway watch 1 3 --target {gateway.target}"
        assert err == f"interrupted; no state of 2 jobs arrived, {again}\n"


@pytest.mark.slow
def test_a_terminal_gets_a_table_and_the_total() -> None:
    script = [Read(3), *map(state, (1, 2, 3)), end(2), end(1), end(3), ReadAll()]
    with ManyJobsGateway(script) as gateway, Terminal(80) as terminal:
        variables = {"TERM": "xterm-256color", "JOBGATEWAY_TARGET": gateway.target}
        with start("watch", "1", "2", "3", stdout=terminal.fd, variables=variables) as process:
            assert process.wait() == 0
        lines = [line.split() for line in terminal.lines()]
        assert not terminal.screen.cursor.hidden
    assert [line[:2] for line in lines[:4]] == [["job", "status"], *([str(uid), "succeeded"] for uid in (1, 2, 3))]
    assert lines[4][:4] == ["3", "jobs:", "3", "succeeded"]
    # An outage of the upstream is to be seen soon.
    assert gateway.streams[0].requests[0].watch.heartbeat_interval.seconds == 3
