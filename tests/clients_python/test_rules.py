"""The decisions of the Python client, without any connection."""

from __future__ import annotations

import hashlib
import re

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Action, AfterSend, GatewayError, ResultDamagedError, action, after_send
from jobgateway_client.calls import channel_options, checked_token, metadata
from jobgateway_client.many_rules import ManyRules
from jobgateway_client.result import Result, stream_result
from jobgateway_client.rules import LONGEST_WAIT, Backoff, CallRules, Retry, WatchRules, proves_token, silence_seconds

from tests.support.paths import ROOT

CODE = grpc.StatusCode
BROKEN = [CODE.UNAVAILABLE, CODE.INTERNAL, CODE.UNKNOWN, CODE.CANCELLED, CODE.DEADLINE_EXCEEDED]
EVERY_CODE = [code for code in CODE if code is not CODE.OK]


def from_gateway(code: grpc.StatusCode, reason: str = "SOME_REASON", *, uid: int = 0) -> GatewayError:
    return GatewayError(code, "message", reason=reason, metadata={"uid": str(uid)} if uid else {})


@pytest.mark.parametrize("has_request_id", [True, False])
def test_our_unavailable_means_that_nothing_was_sent(has_request_id: bool) -> None:
    error = from_gateway(CODE.UNAVAILABLE)
    assert after_send(error, has_request_id=has_request_id) is AfterSend.SEND_AGAIN


@pytest.mark.parametrize("has_request_id", [True, False])
@pytest.mark.parametrize("code", EVERY_CODE)
def test_an_error_with_a_uid_means_watch(code: grpc.StatusCode, has_request_id: bool) -> None:
    error = from_gateway(code, uid=7)
    assert after_send(error, has_request_id=has_request_id) is AfterSend.WATCH


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_send_is_repeated_only_by_its_id(code: grpc.StatusCode) -> None:
    assert after_send(GatewayError(code), has_request_id=True) is AfterSend.SEND_AGAIN
    assert after_send(GatewayError(code), has_request_id=False) is AfterSend.LOOK


@pytest.mark.parametrize("has_request_id", [True, False])
def test_an_unknown_outcome_is_looked_for(has_request_id: bool) -> None:
    error = from_gateway(CODE.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN")
    assert after_send(error, has_request_id=has_request_id) is AfterSend.LOOK


def test_a_limit_of_load_is_retried_and_one_of_size_is_not() -> None:
    load = GatewayError(CODE.RESOURCE_EXHAUSTED, reason="LIMIT_REACHED", retry_delay=1.0)
    size = GatewayError(CODE.RESOURCE_EXHAUSTED, reason="REQUEST_TOO_LARGE")
    assert after_send(load, has_request_id=False) is AfterSend.SEND_AGAIN
    assert after_send(size, has_request_id=True) is AfterSend.STOP
    assert action(size) is Action.FIX


def test_the_actions_are_those_of_the_error_page() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| .* \| \*\*(.+?)\*\*[^|]*\|$", page, re.MULTILINE)
    assert len(rows) > 25
    for reason, code, do in rows:
        # As documented: a limit with a RetryInfo is worth a retry.
        delay = 1.0 if (code, do) == ("RESOURCE_EXHAUSTED", "retry") else None
        assert action(GatewayError(grpc.StatusCode[code], reason=reason, retry_delay=delay)).value == do, reason


def test_a_job_is_sent_again_a_limited_number_of_times() -> None:
    rules = CallRules(pb.SendJobRequest(request_id="once"), attempts=3)
    error = GatewayError(CODE.UNAVAILABLE)
    assert [rules.retry(error, fresh_token=False) is not None for _ in range(3)] == [True, True, False]


def test_a_call_logs_in_once() -> None:
    rules = CallRules(pb.GetJobRequest(uid=1), attempts=5)
    error = from_gateway(CODE.UNAUTHENTICATED)
    assert rules.wants_token(error)
    assert rules.retry(error, fresh_token=True)
    assert not rules.wants_token(error)
    assert rules.retry(error, fresh_token=False) is None


def test_a_login_does_not_repeat_a_job_that_exists() -> None:
    rules = CallRules(pb.SendJobRequest(request_id="once"), attempts=5)
    error = from_gateway(CODE.UNAUTHENTICATED, uid=7)
    assert not rules.wants_token(error)
    assert rules.retry(error, fresh_token=False) is None


def state(token: str = "", *, done: bool = False) -> pb.JobEvent:
    return pb.JobEvent(uid=7, job=pb.Job(uid=7, done=done), resume_token=token)


def watching() -> WatchRules:
    rules = WatchRules(pb.WatchJobRequest(uid=7))
    rules.opened(0.0)
    return rules


@pytest.mark.parametrize("code", EVERY_CODE)
def test_a_foreign_status_is_final_only_before_an_event(code: grpc.StatusCode) -> None:
    rules = watching()
    assert (rules.resume(GatewayError(code), fresh_token=False) is not None) == (code in BROKEN)
    rules.heard(state("at"), 1.0)
    retry = rules.resume(GatewayError(code), fresh_token=False)
    assert retry is not None
    assert retry.new_connection


@pytest.mark.parametrize("code", EVERY_CODE)
def test_a_status_of_the_gateway_is_final_except_one(code: grpc.StatusCode) -> None:
    rules = watching()
    rules.heard(state("at"), 1.0)
    retry = rules.resume(from_gateway(code), fresh_token=False)
    assert (retry is not None) == (code is CODE.UNAVAILABLE)
    assert retry is None or not retry.new_connection


@pytest.mark.parametrize("code", [CODE.RESOURCE_EXHAUSTED, CODE.OUT_OF_RANGE])
def test_a_message_over_the_limit_is_asked_for_twice(code: grpc.StatusCode) -> None:
    rules = watching()
    rules.heard(state("first"), 1.0)
    assert rules.resume(GatewayError(code), fresh_token=False)
    rules.heard(state("second"), 2.0)
    assert rules.resume(GatewayError(code), fresh_token=False)
    assert rules.resume(GatewayError(code), fresh_token=False) is None


def test_a_watch_logs_in_once_until_an_event_proves_the_token() -> None:
    rules = watching()
    error = from_gateway(CODE.UNAUTHENTICATED)
    assert rules.resume(error, fresh_token=True)
    assert not rules.wants_token(error)
    assert rules.resume(error, fresh_token=False) is None
    rules.heard(state(), 1.0)
    assert rules.wants_token(error)


def test_heartbeats_prove_a_token_only_after_a_read() -> None:
    read = Timestamp(seconds=1)
    assert proves_token(pb.JobEvent(heartbeat=pb.Heartbeat(observe_time=read)))
    assert not proves_token(pb.JobEvent(heartbeat=pb.Heartbeat()))
    assert not proves_token(pb.JobEvent(heartbeat=pb.Heartbeat(observe_time=read, last_failure="X")))


def test_a_run_continues_as_a_watch_with_its_settings() -> None:
    start = pb.RunJobRequest(request=pb.SendJobRequest(content_format=pb.CONTENT_FORMAT_JSON_CHUNKS))
    start.heartbeat_interval.seconds = 2
    rules = WatchRules(start)
    assert rules.request is start
    rules.heard(state("at"), 1.0)
    assert rules.request == pb.WatchJobRequest(
        uid=7,
        content_format=pb.CONTENT_FORMAT_JSON_CHUNKS,
        heartbeat_interval=start.heartbeat_interval,
        resume_token="at",
    )
    assert rules.silence == silence_seconds(start) == 6.0


def test_a_run_whose_error_names_the_job_continues_with_it() -> None:
    rules = WatchRules(pb.RunJobRequest())
    error = from_gateway(CODE.UNAVAILABLE, "DRAINING", uid=9)
    rules.failed(error)
    assert rules.resume(error, fresh_token=False)
    assert rules.uid == 9
    assert isinstance(rules.request, pb.WatchJobRequest)


def test_waits_double_up_to_a_bound_and_respect_a_delay() -> None:
    backoff = Backoff()
    waits = [backoff.next(GatewayError(CODE.UNAVAILABLE)) for _ in range(1200)]
    assert 0.1 <= waits[0] <= 0.2
    assert all(LONGEST_WAIT / 2 <= wait <= LONGEST_WAIT for wait in waits[5:])
    assert backoff.next(GatewayError(CODE.UNAVAILABLE, retry_delay=60)) == 60


def test_waits_shrink_only_after_a_stream_that_worked() -> None:
    rules, error = watching(), GatewayError(CODE.UNAVAILABLE)
    for now in range(8):
        rules.opened(now)
        rules.heard(state(), now + 0.1)
        retry = rules.resume(error, fresh_token=False)
    assert retry is not None
    assert retry.wait > 1
    rules.heard(state(), 60.0)
    after = rules.resume(error, fresh_token=False)
    assert after is not None
    assert after.wait <= 0.2


def test_the_uid_is_in_the_metadata_of_the_calls_that_have_one() -> None:
    for request in (pb.GetJobRequest(uid=7), pb.WaitJobRequest(uid=7), pb.CancelJobRequest(uid=7)):
        assert metadata("t", request) == (("authorization", "Bearer t"), ("x-job-uid", "7"))
    assert metadata(None, pb.WatchJobRequest(uid=7)) == (("x-job-uid", "7"),)
    assert metadata("t", pb.SendJobRequest()) == (("authorization", "Bearer t"),)
    assert metadata("t", pb.RunJobRequest()) == (("authorization", "Bearer t"),)


@pytest.mark.parametrize("token", ["", "secret word", "secret\n", "secr\u00e9t"])
def test_a_token_that_cannot_be_sent_is_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^the token ") as caught:
        checked_token(token)
    assert "secret" not in str(caught.value)


def test_a_vanished_gateway_is_noticed_within_90_seconds() -> None:
    options = dict(channel_options(None, ()))
    assert int(options["grpc.keepalive_time_ms"]) + int(options["grpc.http2.ping_timeout_ms"]) <= 90_000


def chunk(data: bytes, offset: int) -> pb.JobEvent:
    return pb.JobEvent(content_chunk=pb.ContentChunk(offset=offset, data=data))


def ended(result: bytes, *, uid: int = 7) -> pb.Job:
    sha256 = hashlib.sha256(result).hexdigest()
    return pb.Job(uid=uid, done=True, content_size=len(result), content_sha256=sha256, content_omitted=True)


def test_chunks_are_cut_to_their_offset_and_verified() -> None:
    result = stream_result(pb.WatchJobRequest())
    for event in (chunk(b"[1, 2", 0), chunk(b"2]", 4), pb.JobEvent(job=ended(b"[1, 2]"))):
        result.take(event)
    assert result.data == b"[1, 2]"


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([b"[1, 3]"], "all 6 bytes arrived, but their SHA-256 is wrong"),
        ([b"[1"], "2 of 6 bytes arrived"),
        ([], "none of its 6 bytes arrived"),
    ],
)
def test_a_damaged_or_missing_result_is_an_error(chunks: list[bytes], problem: str) -> None:
    result = stream_result(pb.RunJobRequest())
    for each in chunks:
        result.take(chunk(each, 0))
    # The end of a result in chunks, which alone does not show that they arrived.
    job = ended(b"[1, 2]")
    with pytest.raises(ResultDamagedError, match=f"^the result of job 7 is damaged: {problem} ") as caught:
        result.take(pb.JobEvent(job=job))
    error: GatewayError = caught.value
    assert (error.code, error.uid, error.from_gateway) == (CODE.DATA_LOSS, 7, False)
    assert action(error) is Action.GIVE_UP


def test_a_result_that_the_gateway_has_not_kept_is_no_damage() -> None:
    result = stream_result(pb.RunJobRequest())
    result.take(pb.JobEvent(job=ended(b"[1, 2]", uid=0)))
    assert result.data == b""


@pytest.mark.parametrize("content_format", set(pb.ContentFormat.values()) - {pb.CONTENT_FORMAT_NONE})
def test_each_format_of_a_stream_has_the_result(content_format: pb.ContentFormat.ValueType) -> None:
    result = stream_result(pb.WatchJobRequest(content_format=content_format))
    with pytest.raises(ResultDamagedError, match="none of its 6 bytes arrived"):
        result.take(pb.JobEvent(job=ended(b"[1, 2]")))


def test_a_job_without_a_result_misses_none() -> None:
    result = stream_result(pb.WatchJobRequest())
    result.take(pb.JobEvent(job=pb.Job(uid=7, done=True)))
    assert result.data == b""


def test_a_result_that_was_read_early_stays_as_it_is() -> None:
    result = stream_result(pb.WatchJobRequest())
    result.take(chunk(b"[1, 3", 0))
    early = memoryview(result.data)
    for event in (chunk(b"[1, 2", 0), chunk(b"]", 5), pb.JobEvent(job=ended(b"[1, 2]"))):
        result.take(event)
    assert (bytes(early), result.data) == (b"[1, 3", b"[1, 2]")
    assert result.data is result.data


def test_a_result_that_was_not_requested_is_not_missed() -> None:
    result = stream_result(pb.WatchJobRequest(content_format=pb.CONTENT_FORMAT_NONE))
    result.take(pb.JobEvent(job=ended(b"[1, 2]")))
    assert result.data == b""


def test_the_bytes_of_a_response_are_verified() -> None:
    job = ended(b"[1]")
    job.content_json = b"[1]"
    assert Result.of(job).data == b"[1]"
    job.content_json = b"[2]"
    with pytest.raises(ResultDamagedError):
        Result.of(job)


def test_a_struct_is_json_with_whole_numbers() -> None:
    content = Struct()
    content.update({"b": 3, "a": [1.5, "ä"]})
    assert Result.of(pb.Job(done=True, content=content)).data == '{"a": [1.5, "ä"], "b": 3}'.encode()


def many(*uids: int, heartbeat: int = 0) -> ManyRules:
    rules = ManyRules([pb.WatchJobRequest(uid=uid, heartbeat_interval=Duration(seconds=heartbeat)) for uid in uids])
    rules.opened(0.0)
    return rules


def requested(rules: ManyRules, now: float) -> list[int]:
    return [each.watch.uid for each in iter(lambda: rules.next_request(now), None)]


def broken_watch(uid: int, *, retry_delay: int = 0) -> pb.JobEvent:
    failure = pb.WatchFailure(code=CODE.UNAVAILABLE.value[0], reason="UPSTREAM_OUTAGE")
    failure.retry_delay.seconds = retry_delay
    return pb.JobEvent(uid=uid, failure=failure)


def running(uid: int) -> pb.JobEvent:
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid), resume_token="one")


def retry_of(rules: ManyRules, uid: int, now: float) -> float:
    retry = rules.take(broken_watch(uid), now)
    assert isinstance(retry, Retry)
    assert requested(rules, now + retry.wait) == [uid]
    return retry.wait


def test_each_job_of_many_has_its_own_growing_waits() -> None:
    rules = many(1, 2)
    assert requested(rules, 0.0) == [1, 2]
    waits = [retry_of(rules, 1, 0.0) for _ in range(8)]
    assert all(low / 2 <= wait <= low for low, wait in zip([0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5], waits, strict=True))
    assert retry_of(rules, 2, 0.0) <= 0.2


@pytest.mark.parametrize(("later", "longest"), [(LONGEST_WAIT, 5.0), (LONGEST_WAIT + 1, 0.2)])
def test_only_a_watch_that_worked_resets_the_wait_of_its_job(later: float, longest: float) -> None:
    rules = many(1)
    requested(rules, 0.0)
    for _ in range(8):
        retry_of(rules, 1, 0.0)
    requested(rules, 10.0)
    rules.opened(10.0)
    requested(rules, 10.0)
    rules.take(running(1), 10.0 + later)
    assert longest / 2 <= retry_of(rules, 1, 20.0) <= longest


@pytest.mark.parametrize(("later", "longest"), [(LONGEST_WAIT, 5.0), (LONGEST_WAIT + 1, 0.2)])
def test_only_a_stream_that_worked_resets_its_wait(later: float, longest: float) -> None:
    rules = many(1)
    for _ in range(8):
        assert rules.resume(GatewayError(CODE.UNAVAILABLE), 0.0, fresh_token=False)
    rules.opened(10.0)
    rules.take(pb.JobEvent(heartbeat=pb.Heartbeat()), 10.0 + later)
    retry = rules.resume(GatewayError(CODE.UNAVAILABLE), 20.0, fresh_token=False)
    assert retry is not None
    assert longest / 2 <= retry.wait <= longest


def test_a_job_that_waits_is_not_requested_earlier() -> None:
    rules = many(1, 2)
    requested(rules, 0.0)
    rules.take(broken_watch(1, retry_delay=60), 0.0)
    assert (requested(rules, 59.0), rules.next_due()) == ([], 60.0)
    # A new stream does not shorten the wait.
    rules.opened(30.0)
    assert requested(rules, 30.0) == [2]
    assert requested(rules, 60.0) == [1]


def test_the_silence_of_many_jobs_is_that_of_the_first() -> None:
    assert many(1, 2, heartbeat=4).silence == 12
    assert ManyRules([pb.WatchJobRequest(uid=1)]).silence == 45
