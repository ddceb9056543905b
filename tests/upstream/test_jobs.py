"""Both shapes of the job at every endpoint, and bodies that are not a job."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamMalformed
from gateway.models import Job, JobError, JobStatus, Progress
from gateway.rpc.codec.responses import job_message
from gateway.upstream.jobs import DROPPABLE, JOB_FIELDS, read_job, read_sent_job

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["success", "failed", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 1e300, "/jobs/7/"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
inner_names = st.sampled_from(
    ["type", "message", "message_type", "percentage", "timestamp_epoch", "stack_trace", "invalid_fields"]
)
job_like = st.dictionaries(
    st.sampled_from(sorted(JOB_FIELDS)), json_values | st.dictionaries(inner_names, json_values, max_size=5), max_size=8
)
bodies = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | job_like.map(lambda value: json.dumps(value).encode())
    | job_like.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
)


def _read(uid: int = 7, **members: Any) -> Job:
    return read_job(json.dumps(members).encode(), uid=uid, observe_time=1.5)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("message", JobStatus.RUNNING),
        ("running", JobStatus.RUNNING),
        ("success", JobStatus.SUCCESS),
        ("error", JobStatus.ERROR),
        ("failed", JobStatus.ERROR),
        ("error_app_reloading", JobStatus.ERROR),
        ("error_user", JobStatus.ERROR_USER),
        ("stopped", JobStatus.STOPPED),
        ("cancelled", JobStatus.CANCELLED),
        ("error_timeout", JobStatus.TIMEOUT),
        ("expired", JobStatus.EXPIRED),
    ],
)
def test_each_known_word_is_a_status(word: str, status: JobStatus) -> None:
    job = _read(status=word)
    assert (job.status, job.status_text, job.done) == (status, word, status is not JobStatus.RUNNING)


@pytest.mark.parametrize("word", ["message", "running"])
def test_a_running_status_outweighs_all_other_fields(word: str) -> None:
    job = _read(status=word, result={"a": 1}, completed_at="2026-01-01T00:00:00Z")
    assert (job.done, job.status, job.result) == (False, JobStatus.RUNNING, None)


@pytest.mark.parametrize(
    ("error_type", "status"),
    [
        ("error_user", JobStatus.ERROR_USER),
        ("error_timeout", JobStatus.TIMEOUT),
        ("error_code", JobStatus.ERROR),
        ("", JobStatus.ERROR),
        (None, JobStatus.ERROR),
    ],
)
def test_a_failed_job_has_the_status_of_its_error(error_type: str | None, status: JobStatus) -> None:
    job = _read(status="failed", error={"type": error_type, "message": "no"})
    assert (job.status, job.status_text, job.done) == (status, "failed", True)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("SUCCESS", JobStatus.SUCCESS),
        ("Success", JobStatus.SUCCESS),
        (" success\n", JobStatus.SUCCESS),
        ("Running", JobStatus.RUNNING),
        ("canceled", JobStatus.CANCELLED),
        ("CANCELED", JobStatus.CANCELLED),
        ("Error-User", JobStatus.ERROR_USER),
        ("error timeout", JobStatus.TIMEOUT),
    ],
)
def test_case_blanks_and_hyphens_make_no_other_word(word: str, status: JobStatus) -> None:
    job = _read(status=word)
    assert (job.status, job.status_text, job.done) == (status, word, status is not JobStatus.RUNNING)


def test_the_type_of_an_error_is_read_without_case() -> None:
    assert _read(status="FAILED", error={"type": "ERROR_USER", "message": "no"}).status is JobStatus.ERROR_USER


@pytest.mark.parametrize("word", ["queued", "PENDING", "retrying", "in_progress", "In Progress", "started"])
@pytest.mark.parametrize(
    ("members", "ended"),
    [
        ({}, False),
        ({"error": {"message": "the first attempt failed"}}, False),
        ({"error_message": "no", "content": {"a": 1}}, False),
        ({"completed_at": "2026-01-01T00:00:00Z", "error": "no"}, True),
    ],
)
def test_a_word_of_a_running_job_outweighs_an_error(word: str, members: dict[str, Any], *, ended: bool) -> None:
    job = _read(status=word, **members)
    assert (job.done, job.status) == (ended, JobStatus.UNSPECIFIED if ended else JobStatus.RUNNING)


@pytest.mark.parametrize("word", ["aborted", "Killed", "", None, "\ud800"])
@pytest.mark.parametrize(
    ("members", "ended"),
    [
        ({}, False),
        ({"completed_at": None, "result": None, "error": None, "error_message": ""}, False),
        ({"content": {}, "invalid_fields": {}, "error_stack_trace": {}, "completed_at": ""}, False),
        ({"message": "half way"}, False),
        ({"completed_at": "2026-01-01T00:00:00Z"}, True),
        ({"completed_at": 1}, True),
        ({"completed_at": float("nan"), "result": float("nan"), "error": float("nan")}, False),
        ({"result": {"a": 1}}, True),
        ({"content": {"a": 1}}, True),
        ({"result": 0}, True),
        ({"error": {"message": "no"}}, True),
        ({"error": "no"}, True),
        ({"error_message": "no"}, True),
        ({"invalid_fields": [{"a": "no"}]}, True),
    ],
)
def test_an_unknown_word_alone_does_not_end_a_job(word: str | None, members: dict[str, Any], *, ended: bool) -> None:
    job = _read(status=word, **members)
    assert (job.done, job.status) == (ended, JobStatus.UNSPECIFIED if ended else JobStatus.RUNNING)
    assert job.status_text == (word or "").replace("\ud800", "\ufffd")


def test_the_first_shape() -> None:
    job = _read(
        uid=7,
        message="ready",
        kind="web",
        status="error_user",
        error_message="too long",
        error_stack_trace={"line": 3},
        invalid_fields={"beam": ["too long"]},
        content={"a": 9007199254740993},
    )
    assert job.progress == Progress(message="ready")
    assert job.error == JobError("", "too long", b'{"line": 3}', b'{"beam": ["too long"]}')
    assert job.result is not None
    assert bytes(job.result.json) == b'{"a": 9007199254740993}'
    assert job.result.sha256 == sha256(b'{"a": 9007199254740993}').hexdigest()
    assert (job.uid, job.kind, job.observe_time) == (7, "web", 1.5)


def test_the_second_shape() -> None:
    job = _read(
        uid=7,
        kind="result",
        status="failed",
        message={"message_type": "info", "message": "half", "timestamp_epoch": 1.5, "percentage": 50},
        error={"type": "error_user", "message": "no", "invalid_fields": [{"a": 1}], "stack_trace": "x"},
        result={"web": {"url": "https://a"}},
        completed_at="2026-02-03T04:05:06.789+02:00",
        log_download_url="https://log",
    )
    assert job.progress == Progress("half", "info", 50.0, datetime.fromtimestamp(1.5, UTC))
    assert job.error == JobError("error_user", "no", b'"x"', b'[{"a": 1}]')
    assert job.result is not None
    assert bytes(job.result.json) == b'{"web": {"url": "https://a"}}'
    assert job.complete_time == datetime(2026, 2, 3, 2, 5, 6, 789_000, UTC)
    assert (job.kind, job.log_download_url) == ("result", "https://log")


@pytest.mark.parametrize("fields", [{"a": ["no"]}, [{"field": "a", "message": "no"}], "no"])
@pytest.mark.parametrize("nested", [False, True])
def test_invalid_fields_of_any_shape_are_kept_as_they_are(fields: object, *, nested: bool) -> None:
    error = {"type": "error_user", "invalid_fields": fields}
    job = _read(status="failed", **({"error": error} if nested else {"invalid_fields": fields}))
    assert job.error is not None
    assert job.error.invalid_fields == json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("message", "progress"),
    [
        ("half", Progress("half")),
        ("", None),
        (None, None),
        ({}, None),
        (5, None),
        (["half"], None),
        ({"message": None}, None),
        ({"message": "a", "percentage": 0}, Progress("a", percentage=0.0)),
        ({"message": "a", "percentage": True}, Progress("a")),
        ({"message": "a", "percentage": "50"}, Progress("a")),
        ({"message": "a", "percentage": 10**400}, Progress("a")),
        ({"message": "a\ud800", "percentage": 10**400}, Progress("a\ufffd")),
        ({"message": "a", "timestamp_epoch": 1e18}, Progress("a")),
        ({"message": "a", "timestamp_epoch": -1e300}, Progress("a")),
        ({"message": "a", "timestamp_epoch": "now"}, Progress("a")),
        ({"message": "a", "timestamp_epoch": None}, Progress("a")),
    ],
)
def test_progress_is_the_readable_part_of_a_message(message: object, progress: Progress | None) -> None:
    assert _read(status="running", message=message).progress == progress


@pytest.mark.parametrize("number", ["1e999", "1" * 5_000])
def test_a_huge_number_does_not_hide_the_rest_of_a_job(number: str) -> None:
    body = (
        f'{{"status":"failed","message":{{"message":"half","percentage":{number}}},'
        f'"error":{{"message":"no \\ud800","invalid_fields":{{"a":{number}}}}},"result":[{number}]}}'
    )
    job = read_job(body.encode(), uid=7, observe_time=0)
    assert job.progress == Progress("half")
    assert job.error is not None
    assert job.error.message == "no \ufffd"
    assert job.error.invalid_fields == b'{"a":%b}' % number.encode()
    assert job.result is not None
    assert bytes(job.result.json) == b"[%b]" % number.encode()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59-01:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("99999-01-01T00:00:00Z", None),
        ("soon", None),
        ("\ud800", None),
        (1767323045, None),
    ],
)
def test_a_time_of_the_end_is_read_or_left_out(text: object, moment: datetime | None) -> None:
    job = _read(status="success", completed_at=text)
    assert (job.done, job.complete_time) == (True, moment)
    message = job_message(job)
    assert message.HasField("complete_time") == (moment is not None)
    assert moment is None or message.complete_time.ToDatetime(UTC) == moment


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "a" : 1 }',
        b'"\xff"',
        b'"\\ud800"',
        b'{"a":1,"a":2}',
        b"1e999",
        b"NaN",
        b"-Infinity",
        b'{"a":[NaN,{"b":Infinity}]}',
        b"9" * 5_000,
        b"[]",
        b"{}",
        b"0",
        b"false",
        b"[" * 500 + b"]" * 500,
    ],
    ids=lambda raw: repr(raw[:16]),
)
@pytest.mark.parametrize("name", ["result", "content"])
def test_a_result_is_the_same_bytes_that_were_sent(name: str, raw: bytes) -> None:
    job = read_job(b'{"status":"success","%b":%b}' % (name.encode(), raw), uid=7, observe_time=0)
    assert job.result is not None
    assert bytes(job.result.json) == raw
    assert job.result.sha256 == sha256(raw).hexdigest()


def test_an_empty_default_does_not_hide_the_result() -> None:
    assert _read(status="success", result=None, content=None).result is None
    for result, content in (({}, {"a": 1}), ({"a": 1}, {})):
        job = _read(status="success", result=result, content=content)
        assert job.result is not None
        assert bytes(job.result.json) == b'{"a": 1}'


def test_a_polled_job_without_a_uid_is_the_requested_one() -> None:
    assert _read(uid=7, status="running").uid == 7
    assert read_job(b'{"uid":null,"status":"running"}', uid=7, observe_time=0).uid == 7
    assert read_job(b'{"uid":7,"status":"running"}', uid=7, observe_time=0).uid == 7


@pytest.mark.parametrize("uid", [b'"42"', b"42.0", b"4.2e1", b"420e-1"])
def test_a_uid_may_be_written_as_text_or_as_a_float(uid: bytes) -> None:
    body = b'{"uid":%b,"status":"running"}' % uid
    assert read_job(body, uid=42, observe_time=0).uid == 42
    assert read_sent_job(body, observe_time=0, location=None, may_have_ended=True).uid == 42
    with pytest.raises(UpstreamMalformed, match="job 42"):
        read_job(body, uid=43, observe_time=0)


UNUSABLE_UIDS = [
    b'"07"',
    b'"+7"',
    b'"7.0"',
    b'" 7"',
    b'""',
    '"\u0667"'.encode(),
    b"0",
    b"-7",
    b"7.5",
    b"NaN",
    b"1e16",
    b"true",
    b"[7]",
    b"{}",
    b"9223372036854775808",
    b"1" * 5_000,
]


@pytest.mark.parametrize("uid", [*UNUSABLE_UIDS, b"8"], ids=lambda uid: uid[:12].decode())
def test_a_polled_job_with_another_uid_is_malformed(uid: bytes) -> None:
    with pytest.raises(UpstreamMalformed, match=r"uid|job 8"):
        read_job(b'{"uid":%b,"status":"running"}' % uid, uid=7, observe_time=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty body"),
        (b"[]", "a JSON list"),
        (b"null", "JSON null"),
        (b'"success"', "a JSON string"),
        (b'{"uid":7,"status":"succ', "not JSON"),
        ('{"uid":7,"status":"success"}'.encode("utf-16"), "not JSON in UTF-8 but seems to be UTF-16"),
        (b"\xef\xbb\xbf", "empty body"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON"),
        (b"<html>", "not JSON"),
        (b"{}", "a JSON object that is not a job"),
        (b'{"detail":"no"}', "a JSON object that is not a job"),
        *(
            (b'{"uid":7,"status":%b}' % status, "a status that is not a string")
            for status in (b"1", b"0", b"true", b"false", b"[]", b"{}", b"1e999")
        ),
        (b'{"uid":7,"content":nan}', "not JSON"),
        (b'{"uid":7,"status":NaN}', "a status that is not a string"),
        (b'{"uid":7,"content":' + b"[" * 100_000 + b"]" * 99_999 + b"}", "not JSON"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_body_that_is_not_a_job_is_malformed(body: bytes, said: str) -> None:
    with pytest.raises(UpstreamMalformed, match=said) as raised:
        read_job(body, uid=7, observe_time=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "members",
    [
        {"uid": 42},
        {"uid": 42, "url": "/jobs/41/"},
        {"uid": "42", "url": "/jobs/42/"},
        {"uid": -1, "url": "/jobs/42/"},
        {"uid": None, "url": "/jobs/42/"},
        {"url": "/api/jobs/42/"},
        {"url": "/api/jobs/42"},
        {"url": "https://cloud.viktor.ai/api/jobs/42/?page=1"},
        {"url": "42"},
        {"url": "/jobs/42/#x"},
        {"url": "/jobs/42#/jobs/43/"},
        {"url": "/jobs/42?x=/43/"},
        {"url": "https://u@7:443/api/jobs/42/?a#b"},
        {"url": "//7/jobs/42"},
        {"url": "/jobs/%34%32/"},
        {"url": "%2Fjobs%2F42%2F"},
        {"url": " /jobs/42/ "},
        {"uid": "42"},
        {"uid": 42.0, "url": "/jobs/41/"},
        {"uid": float("nan"), "url": "/jobs/42/"},
        {"uid": 42, "message": {"percentage": float("nan")}},
        {"uid": 42, "status": 5},
        {"uid": 42, "status": None, "message": None, "kind": None},
        {"uid": 42, "status": "message", "message": {"message": "queued"}},
    ],
)
def test_a_sent_job_is_known_by_its_uid_or_by_its_url_alone(members: dict[str, Any]) -> None:
    job = read_sent_job(json.dumps(members).encode(), observe_time=0, location=None, may_have_ended=True)
    assert (job.uid, job.done) == (42, False)


@pytest.mark.parametrize(
    "members",
    [
        {"status": "message"},
        {"uid": "x"},
        {"uid": 0},
        {"uid": 2**63},
        {"uid": None, "url": None},
        {"uid": [42]},
        *(
            {"url": url}
            for url in (
                "https://42",
                "//42/",
                "/jobs/#42",
                "/jobs/?uid=/42",
                "/jobs/042/",
                "",
                "/",
                "/jobs/",
                "/jobs/x/",
                "/jobs/-1/",
                "/jobs/0/",
                "/jobs/٣/",
                "/jobs/1.5",
                42,
            )
        ),
        {"url": f"/jobs/{2**63}/"},
        {"url": "/jobs/" + "1" * 5_000},
    ],
    ids=lambda members: json.dumps(members)[:40],
)
def test_a_sent_job_without_a_usable_uid_or_url_is_malformed(members: dict[str, Any]) -> None:
    with pytest.raises(UpstreamMalformed, match="uid"):
        read_sent_job(json.dumps(members).encode(), observe_time=0, location=None, may_have_ended=True)


@pytest.mark.parametrize(
    "location",
    [
        "/jobs/42/",
        "/jobs/42",
        "https://cloud.viktor.ai/api/jobs/42/",
        "/api/jobs/42/?a=b#c",
        "/jobs/%34%32/",
        "jobs/42/",
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"created", b"[]", b"null", b"{}", b'{"message":"queued"}', b'{"uid":"x"}']
)
def test_a_location_alone_names_a_sent_job(body: bytes, location: str) -> None:
    job = read_sent_job(body, observe_time=0, location=location, may_have_ended=True)
    assert (job.uid, job.done) == (42, False)


@pytest.mark.parametrize("body", [b'{"uid":42}', b'{"url":"/jobs/42/"}'])
def test_the_body_outweighs_the_location(body: bytes) -> None:
    assert read_sent_job(body, observe_time=0, location="/jobs/41/", may_have_ended=True).uid == 42


@pytest.mark.parametrize(
    "location",
    [None, "", "/", "/login/42/", "/42/", "/jobs/", "/jobs/x/", "/jobs/41/, /jobs/42/x", "https://jobs/42"],
)
def test_another_location_names_no_job(location: str | None) -> None:
    with pytest.raises(UpstreamMalformed):
        read_sent_job(b"{}", observe_time=0, location=location, may_have_ended=True)


ENDED = b'{"status":"success","result":{"a":NaN}}'


@pytest.mark.parametrize("uid", [b"", b'"uid":null,', b'"uid":0,', b'"uid":"5f0c-11",'])
def test_a_job_that_has_ended_needs_no_uid(uid: bytes) -> None:
    body = ENDED.replace(b"{", b"{" + uid, 1)
    job = read_sent_job(body, observe_time=0, location=None, may_have_ended=True)
    assert (job.uid, job.done, job.status) == (0, True, JobStatus.SUCCESS)
    assert job.result is not None
    assert bytes(job.result.json) == b'{"a":NaN}'
    assert read_sent_job(body, observe_time=0, location="/jobs/42/", may_have_ended=True).uid == 42
    with pytest.raises(UpstreamMalformed, match="uid"):
        read_sent_job(body, observe_time=0, may_have_ended=False, location=None)


@pytest.mark.parametrize("status", ["running", "queued", "ok", "", None])
def test_only_a_known_word_ends_a_job_without_a_uid(status: str | None) -> None:
    with pytest.raises(UpstreamMalformed, match="uid"):
        read_sent_job(
            json.dumps({"status": status, "error": "no", "result": 1}).encode(),
            observe_time=0,
            location=None,
            may_have_ended=True,
        )


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_number_that_is_not_finite_hides_nothing_else(constant: bytes) -> None:
    body = (
        b'{"uid":42,"status":"failed","result":{"a":[%b]},"error":{"type":"error_user","message":"no",'
        b'"stack_trace":[%b],"invalid_fields":{"b":%b}},"message":{"message":"half","percentage":%b},'
        b'"completed_at":"2026-01-01T00:00:00Z","unknown":%b}'
    ).replace(b"%b", constant)
    for mark in (b"", b"\xef\xbb\xbf"):
        job = read_job(mark + body, uid=42, observe_time=0)
        assert (job.status, job.done, job.progress) == (JobStatus.ERROR_USER, True, Progress("half"))
        assert job.error == JobError("error_user", "no", b"[%b]" % constant, b'{"b":%b}' % constant)
        assert job.result is not None
        assert bytes(job.result.json) == b'{"a":[%b]}' % constant
        assert job.result.sha256 == sha256(b'{"a":[%b]}' % constant).hexdigest()
        message = job_message(job)
        assert json_format.MessageToDict(message.error)["invalidFields"] == {"b": constant.decode()}
        assert json_format.MessageToDict(message.error)["stackTrace"] == [constant.decode()]


def test_a_byte_order_mark_is_ignored() -> None:
    body = b'\xef\xbb\xbf {"uid":42,"status":"success","content":"\xef\xbb\xbfa"}'
    job = read_job(body, uid=42, observe_time=0)
    assert job.result is not None
    assert bytes(job.result.json) == b'"\xef\xbb\xbfa"'
    assert read_sent_job(body, observe_time=0, location=None, may_have_ended=True).uid == 42


def test_texts_are_kept_up_to_the_limit_for_clients() -> None:
    long = "x" * 2_000_000
    message = {"message": long, "message_type": long}
    error = {"type": long, "message": long, "stack_trace": long, "invalid_fields": long}
    job = _read(status=long, kind=long, log_download_url=long, message=message, error=error)
    assert len(repr(job.identity())) < 1_000_000
    assert len(repr(job)) < 1_500_000
    assert len(repr(_read(status="failed", error={"no": long}).error)) < 100_000


@pytest.mark.parametrize(
    ("members", "dropped"),
    [
        ({"completed_at": 1_700_000_000}, ["completed_at"]),
        ({"completed_at": "yesterday"}, ["completed_at"]),
        ({"kind": ["web"]}, ["kind"]),
        ({"log_download_url": {"url": "https://log"}}, ["log_download_url"]),
        ({"log_download_url": "x" * 8_193}, ["log_download_url"]),
        ({"message": ["half"]}, ["message"]),
        ({"message": {"message": 5, "percentage": "50"}}, ["message", "percentage"]),
        ({"message": {"message_type": 1, "timestamp_epoch": 1e300}}, ["message_type", "timestamp_epoch"]),
        ({"message": {"percentage": 10**400}}, ["percentage"]),
        ({"error_message": {"text": "no"}}, ["error_message"]),
        # Defaults, and fields that are there.
        ({"completed_at": None, "kind": "", "error_message": [], "log_download_url": False, "message": {}}, []),
        ({"message": {"percentage": 0, "timestamp_epoch": 0, "message": ""}}, []),
        ({"message": {"percentage": float("nan")}, "completed_at": float("nan")}, []),
        ({"completed_at": "2026-01-01T00:00:00Z", "kind": "web", "message": "half", "log_download_url": "x"}, []),
        ({"error": "no", "error_message": "no"}, []),
    ],
)
def test_malformed_fields_are_named(members: dict[str, Any], dropped: list[str]) -> None:
    assert list(_read(status="failed", **members).dropped) == dropped
    assert set(dropped) <= set(DROPPABLE)


def test_the_largest_uid_is_one() -> None:
    assert (
        read_sent_job(b'{"uid":%d}' % (2**63 - 1), observe_time=0, location=None, may_have_ended=True).uid == 2**63 - 1
    )
    assert (
        read_sent_job(b'{"url":"/jobs/%d/"}' % (2**63 - 1), observe_time=0, location=None, may_have_ended=True).uid
        == 2**63 - 1
    )


def test_equality_ignores_content_urls_and_times() -> None:
    one = _read(status="running", message={"message": "a", "timestamp_epoch": 1}, log_download_url="https://a?sig=1")
    other = _read(status="running", message={"message": "a", "timestamp_epoch": 2}, log_download_url="https://a?sig=2")
    assert one.identity() == other.identity()
    ended = _read(status="success", result={"url": "https://a?sig=1"}, completed_at="2026-01-01T00:00:00Z")
    assert ended.identity() == _read(status="success", result={"url": "https://a?sig=2"}).identity()


@pytest.mark.parametrize(
    "members",
    [
        {"status": "queued"},
        {"status": "success"},
        {"status": "running", "message": "b"},
        {"status": "running", "message": {"message": "a", "percentage": 1}},
        {"status": "running", "message": {"message": "a", "message_type": "info"}},
        {"status": "running", "message": "a", "error": "no"},
    ],
)
def test_each_visible_change_is_another_state(members: dict[str, Any]) -> None:
    assert _read(**members).identity() != _read(status="running", message="a").identity()


@given(bodies)
def test_any_response_is_a_valid_job_or_malformed(body: bytes) -> None:
    reads: list[Callable[[], Job]] = [
        lambda: read_job(body, uid=7, observe_time=1.5),
        lambda: read_sent_job(body, observe_time=1.5, location=None, may_have_ended=True),
    ]
    for read in reads:
        try:
            job = read()
        except UpstreamMalformed as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
            continue
        assert job.result is None or bytes(job.result.json) in body
        assert job.done or job.result is None
        hash(job.identity())
        message = job_message(job)
        assert message.FromString(message.SerializeToString()).uid == job.uid


@pytest.mark.parametrize("error", ['{"code":7}', "5", '["x"]', "true", '{"a":{}}'])
def test_an_error_of_unknown_form_is_kept_and_ends_the_job(error: str) -> None:
    for word in ("weird", "failed"):
        job = read_job(b'{"uid":7,"status":"%b","error":%b}' % (word.encode(), error.encode()), uid=7, observe_time=0)
        assert job.error == JobError(message=error)
        assert job.done


@pytest.mark.parametrize("empty", ["null", "{}", "{ }", "[]", '""', "false"])
def test_an_empty_error_or_result_is_no_sign_of_an_end(empty: str) -> None:
    body = b'{"uid":7,"status":"weird","error":%b,"result":null}' % empty.encode()
    assert not read_job(body, uid=7, observe_time=0).done
    if empty != "false":
        body = b'{"uid":7,"status":"weird","result":%b}' % empty.encode()
        assert not read_job(body, uid=7, observe_time=0).done


@pytest.mark.parametrize("uid", ["9007199254740992.0", "9007199254740993.0", "1e16"])
def test_a_float_that_stands_for_several_integers_is_no_uid(uid: str) -> None:
    with pytest.raises(UpstreamMalformed, match="uid"):
        read_job(b'{"uid":%b,"status":"running"}' % uid.encode(), uid=2**53, observe_time=0)


def test_the_largest_exact_float_is_a_uid() -> None:
    assert read_job(b'{"uid":9007199254740991.0,"status":"running"}', uid=2**53 - 1, observe_time=0).uid == 2**53 - 1


def test_a_huge_message_is_read_for_its_texts_alone() -> None:
    body = b'{"status":"running","message":{"other":%b,"message":"half way","percentage":50}}' % (
        b"[" + b"[[]," * 10_000 + b"1" + b"]" * 10_001
    )
    progress = read_job(body, uid=42, observe_time=0).progress
    assert progress == Progress("half way", "", 50.0, None)
    body = b'{"status":"running","kind":[%b],"message":{"message":[%b],"percentage":50}}' % (
        (b"[]," * 30_000 + b"1",) * 2
    )
    job = read_job(body, uid=42, observe_time=0)
    assert (job.kind, job.progress) == ("", Progress("", "", 50.0, None))
