"""Error responses: their messages, fields and waits."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FieldViolation, UpstreamError, UpstreamMalformed, UpstreamStatusError
from gateway.rpc.status import to_rpc_error
from gateway.upstream.errors import MAX_DEPTH, MAX_TEXT, MAX_VIOLATIONS, read_error, read_retry_after
from tests.support.transports import http_response

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["detail", "message", "error"]), inner, max_size=4)
    ),
    max_leaves=12,
)

SECRET = "vktrpat_a-secret-that-must-not-be-shown"


def _redact(text: str) -> str:
    return text.replace(SECRET, "[redacted]")


def _read(status: int, body: Any, retry_after: str | None = None) -> UpstreamStatusError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = read_error(http_response(status, raw, retry_after=retry_after), 0.0, _redact)
    assert isinstance(error, UpstreamStatusError)
    assert error.http_status == status
    return error


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"params": ["too long"]}, {"params": "too long"}),
        ({"params": ["too long", "too thin"]}, {"params": "too long too thin"}),
        ({"params": "too long"}, {"params": "too long"}),
        ({"non_field_errors": ["no"]}, {"non_field_errors": "no"}),
        (
            {"params": {"beam": {"length": ["too long"], "width": ["too thin"]}}},
            {"params.beam.length": "too long", "params.beam.width": "too thin"},
        ),
        ({"events": [{}, {"name": ["no"]}]}, {"events.1.name": "no"}),
        ({"events": ["bad", {"name": "no"}]}, {"events": "bad", "events.1.name": "no"}),
        ({"a": [1, True, None, 0.5]}, {"a": "1 true 0.5"}),
        ({"a": False, "b": 0}, {"a": "false", "b": "0"}),
        ({"a": None, "b": [], "c": {}, "d": [[], {}]}, {}),
        ({"params": {"detail": "too long"}}, {"params.detail": "too long"}),
        ({"detail": ["no"]}, {"detail": "no"}),
        ({"detail": "no"}, {}),
        ({"error": "no", "message": "nor that"}, {}),
        ({"a": "\ud800"}, {"a": "\ufffd"}),
        ({"\ud800": "no"}, {"\ufffd": "no"}),
        (["no"], {}),
        ("no", {}),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_400_names_each_field_once_by_its_dotted_path(body: Any, fields: dict[str, str]) -> None:
    violations = _read(400, body).violations
    assert {each.field: each.description for each in violations} == fields
    assert len(violations) == len(fields)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500])
def test_only_a_400_and_a_422_speak_of_fields(status: int) -> None:
    assert _read(status, {"params": ["no"]}).violations == ()
    assert len(_read(422, {"params": ["no"]}).violations) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"params": ["too long"]}, "the upstream rejected the request (HTTP 400): params: too long"),
        (400, {"detail": "no", "a": ["b"]}, "the upstream rejected the request (HTTP 400): no; a: b"),
        (400, ["no", "never"], "the upstream rejected the request (HTTP 400): no never"),
        (401, {"detail": "no token"}, "the upstream did not accept the credential (HTTP 401): no token"),
        (
            404,
            {"detail": None, "message": "gone"},
            "the upstream found no such job, entity or workspace (HTTP 404): gone",
        ),
        (
            404,
            {"detail": ["x"], "error": "gone"},
            "the upstream found no such job, entity or workspace (HTTP 404): gone",
        ),
        *(
            (
                status,
                b"<html>Not Found</html>",
                f"the response is not from the API (HTTP {status}): it has no JSON object; "
                "check the scheme, host and path in JOBGATEWAY_UPSTREAM_URL",
            )
            for status in (400, 404, 405, 410, 421)
        ),
        (
            403,
            b"<html>Forbidden</html>",
            "the upstream does not allow this for the credential (HTTP 403): "
            "the response has no JSON object, so it may come from a proxy instead of the API",
        ),
        (404, {}, "the upstream found no such job, entity or workspace (HTTP 404)"),
        (418, {}, "the upstream rejected the request (HTTP 418)"),
        (429, b"", "the upstream asks to slow down (HTTP 429)"),
        (500, "broken", "the upstream failed (HTTP 500): broken"),
        (502, b"<html>\n<h1>502</h1>", "a proxy got no usable response from the upstream (HTTP 502)"),
        (503, b"\xff\xfe", "the upstream is not available (HTTP 503)"),
        (599, b"[" * 100_000, "the upstream failed (HTTP 599)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_message_has_the_meaning_and_the_upstreams_text(status: int, body: Any, message: str) -> None:
    assert str(_read(status, body)) == message


@pytest.mark.parametrize(
    ("status", "said"), [(101, "neither success"), (301, "redirect"), (302, "redirect"), (304, "neither success")]
)
def test_neither_success_nor_error_is_malformed(status: int, said: str) -> None:
    error = read_error(http_response(status, b""), 0.0, _redact)
    assert isinstance(error, UpstreamMalformed)
    assert error.http_status == status
    assert said in error.cause
    assert str(error) == f"{error.cause}; check the scheme, host and path in JOBGATEWAY_UPSTREAM_URL"


@pytest.mark.parametrize("status", range(400, 600))
def test_a_status_is_transient_if_http_says_so(status: int) -> None:
    error = _read(status, {"detail": "no"})
    assert error.transient == (status in (408, 425, 429, 444, 460, 499) or status >= 500)
    assert error.throttled == (status == 429)
    assert error.may_have_been_sent
    assert error.certain


@pytest.mark.parametrize(
    ("body", "from_api"),
    [
        ({}, True),
        ({"detail": "no"}, True),
        (b' \n{"detail": "no"} ', True),
        (b'\xef\xbb\xbf{"detail": "no"}', True),
        (b'{"detail": "no', True),
        (b"", False),
        (b"  ", False),
        (b"<html><h1>404</h1></html>", False),
        (b"not found", False),
        (["no"], False),
        ("no", False),
        (b"null", False),
        (b"404", False),
        (b"\xff\xfe\x00", False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
def test_a_4xx_without_an_object_is_not_from_the_api(status: int, body: Any, from_api: bool) -> None:
    error = _read(status, body)
    assert (error.from_api, error.certain, error.transient) == (from_api, from_api, not from_api)
    assert f"HTTP {status}" in str(error)
    assert to_rpc_error(error).reason == "UPSTREAM_MALFORMED" or from_api
    settled = _read(status, body).of_submission()
    assert (settled.certain, settled.transient) == (True, False)
    assert to_rpc_error(settled).reason != "UPSTREAM_MALFORMED"


@pytest.mark.parametrize("status", [408, 425, 429, 460, 499, 502, 503])
def test_a_transient_status_keeps_its_reason_with_any_body(status: int) -> None:
    for body in (b"<html>", {"detail": "no"}):
        assert to_rpc_error(_read(status, body)).reason == to_rpc_error(UpstreamStatusError(status, "no")).reason


@pytest.mark.parametrize(
    "body",
    [
        {"detail": f"bad {SECRET}"},
        {"params": [f"bad {SECRET}"]},
        {"params": {SECRET: "bad"}},
        # The cut is inside the secret.
        {"params": ["x" * (MAX_TEXT - 10) + SECRET]},
        {"params": {"x" * (MAX_TEXT - 20) + SECRET: "bad"}},
        {"detail": "x" * (MAX_TEXT - 10) + SECRET},
    ],
    ids=range(6),
)
def test_no_part_of_an_echoed_credential_is_shown(body: Any) -> None:
    error = _read(400, body)
    shown = str(error) + repr(error.violations)
    assert SECRET[:8] not in shown


def test_a_huge_response_is_cut_and_says_so_in_the_end() -> None:
    error = _read(400, {f"field{number}": ["no"] for number in range(5_000)})
    assert len(error.violations) == MAX_VIOLATIONS
    assert error.violations[0] == FieldViolation("field0", "no")
    assert len(str(error)) < MAX_TEXT + 100
    assert "...[cut]" in to_rpc_error(error).message


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 950, 100_000])
def test_deep_error_bodies_are_shown_as_far_as_possible(depth: int) -> None:
    raw = b'{"a":' * 9 + b"[" * depth + b'"no"' + b"]" * depth + b"}" * 9
    violations = _read(400, raw).violations
    assert violations[0] == FieldViolation(
        ".".join("a" * MAX_DEPTH), "the upstream's response is nested too deep to read this error"
    )
    # Nested deeper than the JSON reader accepts, so the rest counts as missing.
    assert [each.field for each in violations[1:]] == (["...[cut]"] if depth > 900 else [])


def test_a_long_key_is_copied_only_for_shown_values() -> None:
    # If the path were joined at each value, this would copy 25 GB.
    raw = b'{"%b":{%b}}' % (b"k" * 500_000, b",".join(b'"%d":null' % number for number in range(50_000)))
    assert _read(400, raw).violations == ()


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("00000000000000", 0.0),
        ("00000000000002", 2.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("86401", 86_400.0),
        ("9" * 5_000, 86_400.0),
        ("-5", None),
        ("1.5", 1.5),
        ("30.0", 30.0),
        ("30.", 30.0),
        (".5", None),
        ("1e3", None),
        ("30, 30", 30.0),
        ("30,30", 30.0),
        ("5, 30, 7", 30.0),
        ("soon, 30", 30.0),
        ("30, -5", 30.0),
        (",,30,", 30.0),
        ("0, 0", 0.0),
        ("30, Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 01 Jan 1970 00:20:00 GMT, 30", 200.0),
        ("Thu, 01 Jan 1970 00:20:00 GMT, Thu, 01 Jan 1970 00:19:00 GMT", 200.0),
        ("Thursday, 01-Jan-70 00:20:00 GMT, 30.5", 200.0),
        ("Thu Jan  1 00:20:00 1970, 7", 200.0),
        ("30," * 20_000, 30.0),
        ("٣", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 01 Jan 1970 00:20:00 -0000", 200.0),
        ("Thu, 01 Jan 1970 01:20:00 +0100", 200.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Thu, 01 Jan 1970 00:20:00 +99999999", None),
        (",,,", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_retry_after_is_seconds_or_a_date_up_to_a_day(value: str | None, wait: float | None) -> None:
    assert read_retry_after(value, now=1_000.0) == wait
    assert _read(503, b"", value).retry_after == read_retry_after(value, now=0.0)


@given(st.text() | st.text(alphabet="0123456789:+-, JanMonGMT"))
def test_any_retry_after_is_a_wait_of_at_most_a_day_or_none(value: str) -> None:
    wait = read_retry_after(value, now=1_000.0)
    assert wait is None or 0 <= wait <= 86_400


@given(
    st.integers(100, 999).filter(lambda status: not 200 <= status < 300),
    st.binary() | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_any_error_response_becomes_one_line(status: int, body: bytes) -> None:
    error = read_error(http_response(status, body), 0.0, _redact)
    assert isinstance(error, UpstreamError)
    ending = to_rpc_error(error, 7)
    assert ending.message.splitlines() == [ending.message]


FIELDS = {f"field_{number}": ["x" * 190] for number in range(20)}


@pytest.mark.parametrize(
    "body", [FIELDS, {"params": {"beam": FIELDS}}, {"params": [FIELDS, FIELDS]}], ids=["flat", "nested", "list"]
)
@pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
def test_an_incomplete_response_shows_its_complete_fields(body: Any, part: float) -> None:
    raw = json.dumps(body).encode()
    whole = {each.field: each.description for each in _read(400, raw).violations}
    *told, mark = _read(400, raw[: int(len(raw) * part)]).violations
    assert len(told) > 3
    for each in told:
        assert whole[each.field].startswith(each.description.rstrip("x") or "x")
    assert mark.field == "...[cut]"


def test_a_sentence_before_the_cut_is_quoted() -> None:
    raw = json.dumps({"detail": "no such entity", "trace": "x" * 1_000}).encode()
    assert str(_read(404, raw[:500])).endswith("no such entity")


@pytest.mark.parametrize("raw", [b"{", b"[", b'{"a', b'{"a":', b"{]", b"{" * 1_000])
def test_a_body_cut_before_its_message_has_none(raw: bytes) -> None:
    assert _read(400, raw).violations == ()


def test_errors_of_the_whole_request_come_first() -> None:
    error = _read(400, {"a": ["x"], "non_field_errors": ["the whole"], "b": ["y"]})
    assert [each.field for each in error.violations] == ["non_field_errors", "a", "b"]
