"""An error with any text becomes one line and readable details, together below 8 KB.

Input: the kind of error, an HTTP status, how often the text is repeated, and texts between line feeds.
"""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

from gateway import errors
from gateway.rpc.codec.text import clean
from gateway.rpc.status import to_rpc_error
from gateway.text import CUT_MARK
from tests.support.error_table import check_error

UID = 2**63 - 1


def check(data: bytes) -> None:
    """End a call with one error."""
    if len(data) < 4:
        return
    kind, status, times = data[0], 400 + data[1], 1 + data[2] % 16 * (data[3] % 2)
    texts = [_text(each) * times for each in data[4:].split(b"\n")[:1_000]]
    violations = tuple(map(errors.FieldViolation, texts[1::2], texts[2::2]))
    error = _error(kind, status, texts[0], violations)
    ending = to_rpc_error(error, UID if kind & 16 else None)
    details = dict(ending.trailers)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    check_error(ending.code, ending.message, details)
    for field in _fields(details):
        assert field.isprintable() or CUT_MARK in field or clean(field, 1_000) == field
    if violations and isinstance(error, errors.UpstreamStatusError):
        told = list(_fields(details))
        assert len(told) == len(violations) or told[-1] == CUT_MARK
    limit = 20 + data[1]
    assert sum(_encoded(each) for each in clean(texts[0], limit)) <= limit


def _text(data: bytes) -> str:
    # JSON can contain lone surrogates too.
    return data.decode("utf-8", "surrogateescape")


def _encoded(character: str) -> int:
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())


def _fields(details: bytes) -> list[str]:
    status = status_pb2.Status.FromString(details)
    bad = [each for each in status.details if each.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    assert len(bad) <= 1
    return [
        str(violation.field)
        for each in bad
        for violation in error_details_pb2.BadRequest.FromString(each.value).field_violations
    ]


def _error(kind: int, status: int, text: str, violations: tuple[errors.FieldViolation, ...]) -> errors.GatewayError:
    answered = errors.UpstreamStatusError(status, text, violations=violations, retry_after=status * 1.001)
    every: tuple[errors.GatewayError, ...] = (
        answered,
        errors.RequestInvalid(text, text),
        errors.RequestInvalid("a", text).within(text),
        errors.RequestTooLarge(text),
        errors.CredentialInvalid(text),
        errors.UpstreamMalformed(text, http_status=status),
        errors.UpstreamTimeout(text),
        errors.UpstreamOutage(answered, 300.0),
        errors.SubmitOutcomeUnknown(text, status),
        errors.ResultTooLarge(text),
        errors.LimitReached(text, retry_after=1.0),
        errors.InternalError(text),
    )
    return every[kind % len(every)]
