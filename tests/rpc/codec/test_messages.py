"""Requests to models, and models to messages."""

import json
import math
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import GatewayError, RequestInvalid
from gateway.models import MAX_URL, MAX_VALUE_BYTES, Job, JobError, JobStatus, Progress, Result, SendJob
from gateway.rpc.codec.events import encode_job
from gateway.rpc.codec.requests import (
    MAX_PARAMS_BYTES,
    read_heartbeat_interval,
    read_request_id,
    read_send_job,
    read_uid,
    read_wait_timeout,
)
from gateway.rpc.codec.responses import MAX_VALUE_DEPTH, STATUSES, job_message, json_value, timestamp
from gateway.rpc.codec.struct_json import struct_to_json
from gateway.rpc.status import to_rpc_error
from gateway.text import CUT_MARK
from gateway.upstream.client import send_body
from gateway.upstream.jobs import read_job
from gateway.upstream.json import read_members

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

UUID = "12345678-1234-1234-1234-123456789abc"
STOCK_LIMIT = 4 << 20


def _request(**fields: Any) -> pb.SendJobRequest:
    defaults: dict[str, Any] = {"workspace_id": "1", "entity_id": 7}
    return pb.SendJobRequest(**(defaults | fields))


def _with_params(**members: Any) -> pb.SendJobRequest:
    request = _request()
    request.params.update(members)
    return request


def _job(**fields: Any) -> Job:
    defaults: dict[str, Any] = {"status": JobStatus.RUNNING, "status_text": "", "done": False, "observe_time": 0.0}
    return Job(7, **(defaults | fields))


def test_unset_fields_stay_unset_and_set_defaults_stay_set() -> None:
    assert read_send_job(_request()) == SendJob("1", 7)
    assert read_send_job(_request(poll_result=False)) == SendJob("1", 7, poll_result=False)
    assert read_send_job(_with_params()).params is None
    empty = _request()
    empty.params.SetInParent()
    empty.arguments.SetInParent()
    assert read_send_job(empty) == SendJob("1", 7, params=b"{}", arguments=b"{}")


def test_everything_that_is_set_arrives() -> None:
    request = _request(
        poll_result=True,
        method_name="m",
        method_type="t",
        editor_session=UUID,
        params_json=b" null ",
        events=["a", "a"],
        timeout=Duration(seconds=86_400),
        method="old",
    )
    request.arguments.update({"a": 1.5})
    assert read_send_job(request) == SendJob(
        "1", 7, True, "m", "t", UUID, b" null ", ("a", "a"), 86_400, b'{"a":1.5}', "old"
    )


@pytest.mark.parametrize("workspace", ["1", "w" * 200, "a b", "...", "a..b", ".a", "é🙂", "a:b@c&d=e+f,g~"])
def test_a_workspace_that_is_one_segment_of_a_path_is_taken(workspace: str) -> None:
    assert read_send_job(_request(workspace_id=workspace)).workspace_id == workspace


INVALID = [
    *(
        (_request(workspace_id=workspace), "workspace_id")
        for workspace in (
            [
                "",
                "w" * 201,
                ".",
                "..",
                "/",
                "a/b",
                "../1",
                "1/..",
                "\\",
                "..\\..",
                "?",
                "1?a=b",
                "#",
                ";a",
                "%2f",
                "%2F",
                "%2e%2e",
                "%2e",
                "%",
                "%25",
                "\n",
                "1\r\nHost: a",
                "\x00",
                "a\tb",
                "\x7f",
                "\x85",
                "\x9f",
            ]
        )
    ),
    *((_request(entity_id=entity), "entity_id") for entity in (0, -1, -(2**63))),
    *((_request(**{name: ""}), name) for name in ("method_name", "method_type", "method")),
    *((_request(**{name: "n" * 10_240}), name) for name in ("method_name", "method_type", "method")),
    *(
        (_request(editor_session=text), "editor_session")
        for text in (
            "",
            "none",
            UUID[:-1],
            UUID + "0",
            UUID.replace("-", ""),
            f"{{{UUID}}}",
            "g" + UUID[1:],
            UUID + "\n",
        )
    ),
    *(
        (_request(timeout=duration), "timeout")
        for duration in (
            Duration(),
            Duration(seconds=86_401),
            Duration(seconds=-1),
            Duration(seconds=1, nanos=500_000_000),
            Duration(seconds=2, nanos=-1),
            Duration(nanos=999_999_999),
            Duration(seconds=2**62),
        )
    ),
    *(
        (_request(params_json=raw), "params_json")
        for raw in (
            [
                b"",
                b"{",
                b"{}{}",
                b"'a'",
                b'{"a":1,"a":2}',
                b"NaN",
                b'"\xff"',
                b"[" * 501 + b"]" * 501,
                b"[" * 100_000,
                "{}".encode("utf-16"),
            ]
        )
    ),
    *((_with_params(a=[{"b": number}]), "params.a.0.b") for number in (math.nan, math.inf, -math.inf)),
]


@pytest.mark.parametrize(("request_", "field"), INVALID, ids=lambda value: str(value)[-40:])
def test_bad_input_is_an_error_of_one_line_that_names_the_field(request_: pb.SendJobRequest, field: str) -> None:
    with pytest.raises(RequestInvalid) as raised:
        read_send_job(request_)
    rpc_error = to_rpc_error(raised.value)
    assert (rpc_error.code, rpc_error.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert [each.field for each in raised.value.violations] == [field]
    assert rpc_error.message.startswith(f"{field}: ")
    assert rpc_error.message.splitlines() == [rpc_error.message]
    assert "Traceback" not in rpc_error.message


def test_a_value_without_a_kind_is_invalid() -> None:
    for field in ("params", "arguments"):
        request = _request()
        getattr(request, field).fields["a"].SetInParent()
        with pytest.raises(RequestInvalid, match=rf"{field}\.a: the value has no kind"):
            read_send_job(request)


def test_params_json_may_have_8_mib() -> None:
    largest = b'"' + b"x" * (MAX_PARAMS_BYTES - 2) + b'"'
    assert read_send_job(_request(params_json=largest)).params == largest
    with pytest.raises(GatewayError, match="8388609 bytes") as raised:
        read_send_job(_request(params_json=b"x" * (MAX_PARAMS_BYTES + 1)))
    rpc_error = to_rpc_error(raised.value)
    assert (rpc_error.code, rpc_error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_value_passes_unchanged_in_both_directions(value: Any, ascii_only: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(errors="replace")
    # As gRPC carries it.
    request = pb.SendJobRequest.FromString(_request(params_json=raw).SerializeToString())
    sent = bytes(read_members(send_body(read_send_job(request)), frozenset({"params"}))["params"])
    assert sent == raw.strip()
    job = read_job(b'{"status":"success","result":%b}' % sent, uid=7, observe_time=0)
    message = job_message(job)
    if job.result is None:
        assert sent == b"null"
        return
    message = pb.Job.FromString(b"".join(encode_job(job, pb.CONTENT_FORMAT_JSON, streaming=False).buffers))
    assert message.content_json == sent
    assert (message.content_size, message.content_sha256) == (len(sent), sha256(sent).hexdigest())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_workspace_is_invalid_or_one_path_segment(workspace: str) -> None:
    try:
        job = read_send_job(_request(workspace_id=workspace))
    except RequestInvalid as error:
        assert error.violations[0].field == "workspace_id"  # noqa: PT017 - either outcome is right
        return
    assert not set(job.workspace_id) & set("/\\?#%;\n\r\t\x00")
    assert job.workspace_id not in ("", ".", "..")


@pytest.mark.parametrize("uid", [0, -1, -(2**63)])
def test_a_uid_is_one_or_greater(uid: int) -> None:
    with pytest.raises(RequestInvalid, match=rf"uid: must be 1 or greater \(got {uid}\)"):
        read_uid(uid)
    assert read_uid(2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize("request_id", ["", "a", "!~", "x" * 128])
def test_a_request_id_of_visible_ascii_is_taken(request_id: str) -> None:
    assert read_request_id(request_id) == request_id


@pytest.mark.parametrize("request_id", ["x" * 129, " ", "a b", "a\n", "é", "\x7f", "\x00"])
def test_any_other_request_id_is_invalid(request_id: str) -> None:
    with pytest.raises(RequestInvalid, match=r"^request_id: "):
        read_request_id(request_id)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (None, 15),
        (Duration(seconds=1), 1),
        (Duration(seconds=1, nanos=500_000_000), 1.5),
        (Duration(seconds=3_600), 3_600),
    ],
)
def test_a_heartbeat_interval_is_15_seconds_if_unset(duration: Duration | None, seconds: float) -> None:
    assert read_heartbeat_interval(pb.WatchJobRequest(heartbeat_interval=duration)) == seconds


@pytest.mark.parametrize(
    "duration",
    [
        Duration(),
        Duration(nanos=999_999_999),
        Duration(seconds=3_600, nanos=1),
        Duration(seconds=-5),
        Duration(seconds=2**62),
        Duration(seconds=5, nanos=-1),
        Duration(seconds=1, nanos=2_000_000_000),
    ],
)
def test_a_heartbeat_interval_is_from_a_second_to_an_hour(duration: Duration) -> None:
    with pytest.raises(RequestInvalid, match=r"^heartbeat_interval: "):
        read_heartbeat_interval(pb.WatchJobRequest(heartbeat_interval=duration))


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(None, None), (Duration(), 0), (Duration(nanos=1), 1e-9), (Duration(seconds=315_576_000_000), 315_576_000_000)],
)
def test_a_wait_lasts_as_long_as_the_client_asks(duration: Duration | None, seconds: float | None) -> None:
    assert read_wait_timeout(pb.WaitJobRequest(timeout=duration)) == seconds


@pytest.mark.parametrize(
    "duration",
    [Duration(nanos=-1), Duration(seconds=-1), Duration(seconds=315_576_000_001), Duration(seconds=1, nanos=-1)],
)
def test_a_negative_wait_or_a_bad_duration_is_invalid(duration: Duration) -> None:
    with pytest.raises(RequestInvalid, match=r"^timeout: "):
        read_wait_timeout(pb.WaitJobRequest(timeout=duration))


def test_every_job_status_has_the_name_of_the_contract() -> None:
    assert {status.name: pb.JobStatus.Name(value) for status, value in STATUSES.items()} == {
        status.name: f"JOB_STATUS_{status.name}" for status in JobStatus
    }
    assert set(STATUSES.values()) == set(pb.JobStatus.values())


def test_a_job_with_only_a_uid_leaves_all_else_unset() -> None:
    message = job_message(_job())
    assert {field.name for field, _ in message.ListFields()} == {"uid", "status", "observe_time"}


def test_a_progress_with_default_values_is_present() -> None:
    assert job_message(_job(progress=Progress())).HasField("progress")


def test_everything_that_is_known_of_a_job_is_in_its_message() -> None:
    job = _job(
        status=JobStatus.ERROR_USER,
        status_text="failed",
        done=True,
        observe_time=1.5,
        kind="web",
        progress=Progress("half", "info", 0.0, datetime(2026, 1, 1, tzinfo=UTC)),
        error=JobError("error_user", "no", b'{"line":3}', b'["a"]'),
        result=Result(memoryview(b"[1]"), "ab"),
        complete_time=datetime(2026, 1, 2, tzinfo=UTC),
        log_download_url="https://log",
    )
    message = job_message(job)
    assert (message.status, message.status_text, message.done) == (pb.JOB_STATUS_ERROR_USER, "failed", True)
    assert (message.kind, message.log_download_url) == ("web", "https://log")
    assert (message.progress.message, message.progress.message_type) == ("half", "info")
    assert message.progress.HasField("percentage")
    assert message.progress.report_time.seconds == 1767225600
    assert (message.error.type, message.error.message) == ("error_user", "no")
    assert message.error.stack_trace.struct_value["line"] == 3
    assert message.error.invalid_fields.list_value[0] == "a"
    assert (message.content_size, message.content_sha256, message.WhichOneof("result")) == (3, "ab", None)
    assert message.complete_time.seconds == 1767225600 + 86_400
    assert (message.observe_time.seconds, message.observe_time.nanos) == (1, 500_000_000)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_moment_of_time_pass(moment: datetime) -> None:
    message = job_message(_job(complete_time=moment, progress=Progress(report_time=moment)))
    assert message.complete_time.ToDatetime(UTC) == moment == message.progress.report_time.ToDatetime(UTC)


@given(st.floats(-62_135_596_800, 253_402_300_799))
def test_a_timestamp_is_the_moment_to_the_microsecond(seconds: float) -> None:
    assert timestamp(seconds).ToDatetime(UTC) == datetime.fromtimestamp(seconds, UTC)


def test_the_largest_job_fits_stock_clients() -> None:
    text = "🙂" * (1 << 19)
    fields = b'["%b"]' % (b"x" * (MAX_VALUE_BYTES - 20))
    result = b'"%b"' % (b"x" * ((3 << 20) - 2))
    job = _job(
        status_text=text,
        done=True,
        kind=text,
        progress=Progress(text, text),
        error=JobError(text, text, fields, fields),
        result=Result(memoryview(result), sha256(result).hexdigest()),
        log_download_url="🙂" * MAX_URL,
    )
    assert job.result is not None
    message = pb.Job.FromString(b"".join(encode_job(job, pb.CONTENT_FORMAT_UNSPECIFIED, streaming=True).buffers))
    assert message.content_json == result
    assert message.ByteSize() < STOCK_LIMIT - 1024
    for shown in (message.status_text, message.progress.message, message.error.message):
        assert shown.endswith(f"🙂{CUT_MARK}")


def test_an_address_is_whole_or_left_out() -> None:
    assert job_message(_job(log_download_url="x" * MAX_URL)).log_download_url == "x" * MAX_URL
    assert job_message(_job(log_download_url="x" * (MAX_URL + 1))).log_download_url == ""


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"null", "null_value"),
        (b"true", "bool_value"),
        (b"9007199254740993", "number_value"),
        (b'"a"', "string_value"),
        (b'{"a":[{"a":null}]}', "struct_value"),
        (b"[1]", "list_value"),
        (_nested(MAX_VALUE_DEPTH), "list_value"),
        (b'{"a":' * MAX_VALUE_DEPTH + b"1" + b"}" * MAX_VALUE_DEPTH, "struct_value"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_small_value_arrives_as_it_is(raw: bytes, kind: str) -> None:
    value = json_value(raw)
    assert value.WhichOneof("kind") == kind
    struct = pb.Job.FromString(pb.Job(error=pb.JobError(stack_trace=value)).SerializeToString()).error
    assert struct.stack_trace == value


def test_stock_clients_read_the_deepest_value() -> None:
    value = json_value(b'{"a":' * MAX_VALUE_DEPTH + b"1" + b"}" * MAX_VALUE_DEPTH)
    event = pb.JobEvent(job=pb.Job(error=pb.JobError(invalid_fields=value)))
    assert pb.JobEvent.FromString(event.SerializeToString()) == event


@pytest.mark.parametrize(
    "raw",
    [
        _nested(MAX_VALUE_DEPTH + 1),
        _nested(100_000),
        b"1e999",
        b"9" * 5_000,
        b'"\\ud800"',
        b'{"a":"\xff"}',
        # Small as JSON, and large as a Value.
        b"[" + b"0," * 50_000 + b"0]",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_value_too_deep_or_invalid_becomes_a_string(raw: bytes) -> None:
    assert json_value(raw).string_value == raw.decode(errors="replace")


@pytest.mark.parametrize(
    "raw", [b'"%b"' % (b"x" * MAX_VALUE_BYTES), b'["%b"]' % (b"\xff" * MAX_VALUE_BYTES), b"[" * (1 << 20)]
)
def test_a_value_over_256_kib_becomes_a_cut_string(raw: bytes) -> None:
    text = json_value(raw).string_value
    assert text.endswith(CUT_MARK)
    assert MAX_VALUE_BYTES - 20 < len(text.encode()) <= MAX_VALUE_BYTES
    assert raw.decode(errors="replace").startswith(text.removesuffix(CUT_MARK))


@given(st.binary(min_size=1) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_value_can_be_sent_on(raw: bytes) -> None:
    message = pb.JobError(stack_trace=json_value(raw))
    assert pb.JobError.FromString(message.SerializeToString()) == message


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False, allow_infinity=False))
)
def test_numbers_of_a_struct_arrive_equal(members: dict[str, float]) -> None:
    params = read_send_job(_with_params(all=members)).params
    assert params is not None
    assert json.loads(params)["all"] == members
    assert params == struct_to_json(_with_params(all=members).params)
