"""The table of gRPC statuses, the size of the trailers, and docs/reference/errors.md."""

import base64
import re
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import FieldViolation
from gateway.rpc import status
from gateway.rpc.codec.text import clean
from gateway.rpc.status import MAX_DETAILS_BYTES, RpcError, mapping_for, to_rpc_error
from gateway.text import CUT_MARK
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "reference" / "errors.md").read_text()

# A limit below that of any client.
MAX_TRAILERS = 8 << 10


def _answered(http_status: int, message: str = "no", **more: Any) -> errors.UpstreamStatusError:
    return errors.UpstreamStatusError(http_status, message, **more)


class Read:
    """The end of a call, as a client reads it."""

    def __init__(self, rpc_error: RpcError) -> None:
        trailers = dict(rpc_error.trailers)
        raw = trailers["grpc-status-details-bin"]
        assert isinstance(raw, bytes)
        assert len(raw) <= MAX_DETAILS_BYTES
        self.size = len(base64.b64encode(raw)) + len(_percent_encoded(rpc_error.message)) + 100
        self.status = status_pb2.Status.FromString(raw)
        assert (self.status.code, self.status.message) == (rpc_error.code.value[0], rpc_error.message)
        self.kinds = [detail.TypeName() for detail in self.status.details]
        (self.info,) = self._all(error_details_pb2.ErrorInfo)
        assert (self.info.domain, self.info.reason) == ("jobgateway", rpc_error.reason)
        self.retry = self._all(error_details_pb2.RetryInfo)
        self.resource = self._all(error_details_pb2.ResourceInfo)
        bad = self._all(error_details_pb2.BadRequest)
        assert len(bad) <= 1
        self.violations = [(each.field, each.description) for one in bad for each in one.field_violations]
        self.pushback = trailers.get("grpc-retry-pushback-ms")

    def _all(self, kind: Any) -> list[Any]:
        found = [kind.FromString(detail.value) for detail in self.status.details if detail.Is(kind.DESCRIPTOR)]
        assert len(found) <= 1
        return found


def _percent_encoded(message: str) -> str:
    # As in gRPC's own protocol: all but space to '~', and '%' itself.
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in message.encode())


BY_HTTP_STATUS = {
    400: (StatusCode.INVALID_ARGUMENT, "UPSTREAM_BAD_REQUEST"),
    401: (StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED"),
    403: (StatusCode.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED"),
    404: (StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"),
    408: (StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    409: (StatusCode.ABORTED, "UPSTREAM_CONFLICT"),
    413: (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_REQUEST_TOO_LARGE"),
    425: (StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    429: (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    444: (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    460: (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    499: (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    502: (StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    503: (StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    504: (StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
}


@pytest.mark.parametrize("http_status", range(400, 600))
def test_every_http_status_has_its_row(http_status: int) -> None:
    other = (
        (StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED")
        if http_status < 500
        else (StatusCode.INTERNAL, "UPSTREAM_ERROR")
    )
    rpc_error = to_rpc_error(_answered(http_status))
    assert (rpc_error.code, rpc_error.reason) == BY_HTTP_STATUS.get(http_status, other)
    assert dict(Read(rpc_error).info.metadata) == {"http_status": str(http_status)}


BY_ERROR = [
    (errors.RequestInvalid("uid", "no"), StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    (errors.AlreadyWatched("uid", "no"), StatusCode.ALREADY_EXISTS, "ALREADY_WATCHED"),
    (errors.RequestIdReused("request_id", "no"), StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    (errors.RequestTooLarge("no"), StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
    (errors.RequestIdsExhausted("no"), StatusCode.RESOURCE_EXHAUSTED, "REQUEST_IDS_EXHAUSTED"),
    (errors.CredentialInvalid("no"), StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
    (errors.UpstreamMalformed("no"), StatusCode.INTERNAL, "UPSTREAM_MALFORMED"),
    (errors.UpstreamResponseTooLarge("no"), StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_ANSWER_TOO_LARGE"),
    (errors.UpstreamTimeout("no"), StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    (errors.UpstreamConnectionLost("no"), StatusCode.UNAVAILABLE, "UPSTREAM_CONNECTION_LOST"),
    (errors.UpstreamUnreachable("no"), StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"),
    (errors.GatewayOverloaded("EMFILE", may_have_been_sent=False), StatusCode.UNAVAILABLE, "GATEWAY_OVERLOADED"),
    (errors.SubmitOutcomeUnknown("no", 503), StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
    (errors.UpstreamOutage(errors.UpstreamTimeout("no"), 300), StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE"),
    (errors.JobOverdue("no"), StatusCode.FAILED_PRECONDITION, "JOB_OVERDUE"),
    (errors.NoStateYet("no"), StatusCode.UNAVAILABLE, "NO_STATE_YET"),
    (errors.SlowConsumer("no"), StatusCode.UNAVAILABLE, "SLOW_READER"),
    (errors.ResultTooLarge("no"), StatusCode.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE"),
    (errors.StateUnavailable("no"), StatusCode.UNAVAILABLE, "STATE_UNAVAILABLE"),
    (errors.LimitReached("no", retry_after=1), StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"),
    (errors.Draining(retry_after=1.5), StatusCode.UNAVAILABLE, "DRAINING"),
    (errors.InternalError("no"), StatusCode.INTERNAL, "GATEWAY_DEFECT"),
]
INNER_NODES = {errors.GatewayError, errors.RequestError, errors.UpstreamError, errors.UpstreamStatusError}


@pytest.mark.parametrize(("error", "code", "reason"), BY_ERROR, ids=[row[2] for row in BY_ERROR])
def test_every_error_has_its_row(error: errors.GatewayError, code: StatusCode, reason: str) -> None:
    rpc_error = to_rpc_error(error, 42)
    assert (rpc_error.code, rpc_error.reason) == (code, reason)
    assert Read(rpc_error).info.metadata["uid"] == "42"


def test_these_tables_have_every_error() -> None:
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)}
    assert {type(error) for error, _, _ in BY_ERROR} == tree - INNER_NODES


def test_the_metadata_has_http_status_uid_and_last_failure() -> None:
    def metadata(error: errors.GatewayError, uid: int | None = None) -> dict[str, str]:
        return dict(Read(to_rpc_error(error, uid)).info.metadata)

    assert metadata(errors.InternalError("no")) == {}
    assert metadata(errors.UpstreamMalformed("no", http_status=200)) == {"http_status": "200"}
    assert metadata(errors.SubmitOutcomeUnknown("no", 500)) == {"http_status": "500"}
    assert metadata(errors.SubmitOutcomeUnknown("no", None), 2**63 - 1) == {"uid": "9223372036854775807"}
    assert metadata(errors.UpstreamOutage(_answered(502), 300), 42) == {
        "uid": "42",
        "http_status": "502",
        "last_failure": "UPSTREAM_UNAVAILABLE",
    }
    page = errors.UpstreamStatusError(403, "no", from_api=False)
    assert metadata(errors.UpstreamOutage(page, 300)) == {"http_status": "403", "last_failure": "UPSTREAM_MALFORMED"}


@pytest.mark.parametrize(
    ("error", "milliseconds"),
    [
        (_answered(429, retry_after=7), 7_000),
        (_answered(429), 1_000),
        (_answered(503, retry_after=0.0), 100),
        (_answered(429, retry_after=0.0), 100),
        (_answered(503, retry_after=0.0999), 100),
        (_answered(503, retry_after=0.1234), 123),
        (errors.Draining(retry_after=0.0), 100),
        (errors.LimitReached("no", retry_after=0.001), 100),
        (_answered(503, retry_after=86_400), 86_400_000),
        (_answered(503), None),
        (_answered(404), None),
        (_answered(413), None),
        (errors.Draining(retry_after=1.2345678), 1_235),
        (errors.Draining(retry_after=1.9996), 2_000),
        (errors.LimitReached("no", retry_after=1), 1_000),
        (errors.RequestIdsExhausted("no"), 60_000),
        (errors.RequestTooLarge("no"), None),
        (errors.ResultTooLarge("no"), None),
        (errors.UpstreamResponseTooLarge("no"), None),
        (errors.SubmitOutcomeUnknown("no", 503), None),
        (errors.UpstreamOutage(_answered(503, retry_after=7), 300), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_wait_in_retry_info_is_the_one_that_grpc_reads(
    error: errors.GatewayError, milliseconds: int | None
) -> None:
    read = Read(to_rpc_error(error))
    assert read.pushback == (None if milliseconds is None else str(milliseconds))
    assert [each.retry_delay.ToMilliseconds() for each in read.retry] == (
        [] if milliseconds is None else [milliseconds]
    )


def test_resource_info_names_only_a_job_that_was_not_found() -> None:
    (resource,) = Read(to_rpc_error(_answered(404), 42)).resource
    assert (resource.resource_type, resource.resource_name) == ("job", "42")
    assert Read(to_rpc_error(_answered(404))).resource == []
    assert Read(to_rpc_error(_answered(403), 42)).resource == []


def test_bad_request_has_a_violation_per_field() -> None:
    violations = (FieldViolation("params.beam.length", "too long"), FieldViolation("timeout", "no"))
    read = Read(to_rpc_error(_answered(400, violations=violations)))
    assert read.violations == [("params.beam.length", "too long"), ("timeout", "no")]
    assert read.kinds == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]
    assert Read(to_rpc_error(errors.RequestInvalid("uid", "no"))).violations == [("uid", "no")]
    assert Read(to_rpc_error(_answered(400))).violations == []


def test_too_many_fields_are_cut_with_a_mark() -> None:
    violations = tuple(FieldViolation(f"field{number}", "no") for number in range(5_000))
    read = Read(to_rpc_error(_answered(400, violations=violations)))
    assert read.violations[0] == ("field0", "no")
    assert len(read.violations) > 50
    assert read.violations[:-1] == [(each.field, each.description) for each in violations[: len(read.violations) - 1]]
    assert read.violations[-1] == (CUT_MARK, "there are more invalid fields than fit here")


HUGE_TEXTS = {
    "letters": "x" * (1 << 20),
    "controls": "\n\x00" * (1 << 19),
    "umlauts": "ä" * (1 << 20),
    "kanji": "漢" * (1 << 20),
    "emoji": "🙂" * (1 << 18),
    "percents": "%" * (1 << 20),
    "surrogates": "\ud800" * (1 << 20),
    "mixed": "a🙂\n%ä" * (1 << 18),
}


@pytest.mark.parametrize("text", HUGE_TEXTS.values(), ids=HUGE_TEXTS)
def test_any_upstream_text_stays_below_8_kb(text: str) -> None:
    violations = tuple(FieldViolation(text, text) for _ in range(3))
    for error in (
        _answered(400, text, violations=violations, retry_after=86_400),
        _answered(404, text, retry_after=86_400),
        errors.SubmitOutcomeUnknown(text, 500),
        errors.UpstreamOutage(_answered(503, text), 300),
        errors.RequestInvalid(text, text),
    ):
        read = Read(to_rpc_error(error, 2**63 - 1))
        assert read.size < MAX_TRAILERS


@given(st.text(), st.lists(st.builds(FieldViolation, st.text(), st.text()), max_size=60), st.booleans())
def test_any_error_fits_in_one_line_and_is_complete_or_marked(
    text: str, violations: list[FieldViolation], long: bool
) -> None:
    text = text * 500 if long else text
    rpc_error = to_rpc_error(_answered(400, text, violations=tuple(violations), retry_after=1), 42)
    read = Read(rpc_error)
    assert read.size < MAX_TRAILERS
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", rpc_error.message)
    assert len(read.violations) == len(violations) or read.violations[-1][0] == CUT_MARK
    assert rpc_error.message == clean(text, 10**9) or rpc_error.message.endswith(CUT_MARK)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("", ""),
        ("a\r\nb\tc\x00d\x7fe\x85f\u2028g", "a b c d e f g"),
        ("a\ud800b", "a b"),
        ("é 漢 🙂", "é 漢 🙂"),
        ("x" * 30, "x" * 30),
        ("x" * 31, "x" * 22 + CUT_MARK),
        ("ä" * 5, "ä" * 5),
        ("ä" * 6, "ä" * 3 + CUT_MARK),
        ("%" * 11, "%" * 7 + CUT_MARK),
        # Control characters do not count before they are removed.
        ("\n" * 100 + "cause", " cause"),
        ("\n" * 100 + "x" * 31, " " + "x" * 21 + CUT_MARK),
    ],
)
def test_a_text_becomes_one_line_that_fits_percent_encoded(text: str, cleaned: str) -> None:
    assert clean(text, 30) == cleaned
    assert len(_percent_encoded(cleaned)) <= 30


def test_the_message_says_what_to_do_if_a_retry_is_unsafe() -> None:
    assert to_rpc_error(errors.SubmitOutcomeUnknown("lost {0}", None)).message == (
        "it is unknown whether the job runs; with a request_id, send the same request again; "
        "without one, look in the VIKTOR app before you send another: lost {0}"
    )
    assert "log" in to_rpc_error(errors.InternalError("KeyError")).message


@pytest.mark.parametrize("http_status", [400, 403, 404, 413, 422])
def test_a_wait_that_a_final_refusal_names_is_not_passed_on(http_status: int) -> None:
    read = Read(to_rpc_error(_answered(http_status, retry_after=7.0)))
    assert (read.retry, read.pushback) == ([], None)


def test_characters_that_turn_the_text_direction_are_removed() -> None:
    assert clean("a\u202eb\u2066c\u200fd", 30) == "a b c d"


def test_fields_are_cut_by_their_size_in_the_details() -> None:
    field = "长" * 60
    read = Read(to_rpc_error(_answered(400, violations=(FieldViolation(field, "字" * 130),))))
    assert read.violations == [(field, "字" * 130)]


def _table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table under a heading of docs/reference/errors.md, by their first cell."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "
    ]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows[2:]}


def _rows() -> set[status.StatusMapping]:
    return {*status.BY_HTTP_STATUS.values(), status.OTHER_4XX, status.OTHER_5XX, *status.BY_ERROR.values()}


def test_the_page_lists_each_reason_with_its_code() -> None:
    documented = {(reason, cells[0]) for reason, cells in _table("The reasons").items()}
    assert documented == {(row.reason, row.code.name) for row in _rows()}
    assert len(documented) == len({reason for reason, _ in documented})


def test_the_page_has_a_cause_and_an_action_for_each_reason() -> None:
    actions = re.findall(r"^- \*\*(.+?)\*\*:", DOCUMENT, flags=re.MULTILINE)
    assert len(actions) == 5
    for reason, (_, cause, action) in _table("The reasons").items():
        assert cause, reason
        assert action.startswith(tuple(f"**{each}**" for each in actions)), reason


# The action of a client, by the reason alone.
ACTIONS = {
    **dict.fromkeys(("REQUEST_INVALID", "REQUEST_ID_REUSED", "REQUEST_TOO_LARGE"), "fix the request"),
    **dict.fromkeys(("UPSTREAM_BAD_REQUEST", "UPSTREAM_REQUEST_TOO_LARGE", "RESULT_TOO_LARGE"), "fix the request"),
    **dict.fromkeys(("UPSTREAM_NOT_FOUND", "ALREADY_WATCHED"), "fix the request"),
    **dict.fromkeys(("CREDENTIAL_INVALID", "UPSTREAM_UNAUTHENTICATED"), "log in again"),
    **dict.fromkeys(("REQUEST_IDS_EXHAUSTED", "LIMIT_REACHED", "UPSTREAM_RATE_LIMITED"), "retry"),
    **dict.fromkeys(("DRAINING", "SLOW_READER", "NO_STATE_YET", "UPSTREAM_OUTAGE"), "retry"),
    **dict.fromkeys(("UPSTREAM_UNAVAILABLE", "UPSTREAM_CONNECTION_LOST", "UPSTREAM_UNREACHABLE"), "retry"),
    **dict.fromkeys(("GATEWAY_OVERLOADED", "STATE_UNAVAILABLE"), "retry"),
    **dict.fromkeys(("UPSTREAM_TIMEOUT", "UPSTREAM_NOT_READY", "UPSTREAM_CANCELLED", "UPSTREAM_ERROR"), "retry"),
    "JOB_OVERDUE": "give up",
    "SUBMIT_OUTCOME_UNKNOWN": "look before sending again",
    **dict.fromkeys(("UPSTREAM_PERMISSION_DENIED", "UPSTREAM_CONFLICT", "UPSTREAM_REFUSED"), "give up"),
    **dict.fromkeys(("UPSTREAM_MALFORMED", "UPSTREAM_ANSWER_TOO_LARGE", "GATEWAY_DEFECT"), "give up"),
}
ENDINGS = [to_rpc_error(error) for error, _, _ in BY_ERROR] + [
    to_rpc_error(_answered(each)) for each in range(400, 600)
]


@pytest.mark.parametrize("reason", sorted({row.reason for row in _rows()}))
def test_a_client_decides_by_the_reason_alone(reason: str) -> None:
    action = ACTIONS[reason]
    assert _table("The reasons")[reason][2].startswith(f"**{action}**")
    endings = [rpc_error for rpc_error in ENDINGS if rpc_error.reason == reason]
    assert endings
    for rpc_error in endings:
        # gRPC and meshes retry by the code alone, and must do the same.
        if rpc_error.code is StatusCode.UNAVAILABLE:
            assert action == "retry"
        if rpc_error.code is StatusCode.RESOURCE_EXHAUSTED:
            assert bool(Read(rpc_error).retry) is (action == "retry")
        if action != "retry":
            assert Read(rpc_error).pushback is None


def test_the_page_lists_each_reason_of_a_heartbeat() -> None:
    failures: list[errors.UpstreamError] = [_answered(http_status) for http_status in range(400, 600)]
    failures += [error for error, _, _ in BY_ERROR if isinstance(error, errors.UpstreamError)]
    assert _table("`last_failure`").keys() == {
        # A refusal is a failure until it is confirmed.
        mapping_for(error).reason
        for error in failures
        if error.transient or isinstance(error, errors.UpstreamStatusError)
    }


@pytest.mark.parametrize(
    "word",
    [
        "ErrorInfo",
        "BadRequest",
        "RetryInfo",
        "ResourceInfo",
        "grpc-status-details-bin",
        "grpc-retry-pushback-ms",
        "http_status",
        "uid",
        "last_failure",
        CUT_MARK,
    ],
)
def test_the_page_names_all_that_an_error_carries(word: str) -> None:
    assert f"`{word}`" in DOCUMENT
