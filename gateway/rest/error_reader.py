"""Reads what an upstream answer that is no success says: a sentence, field by field, and when to come back."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING, Any

from gateway.errors import FieldViolation, UpstreamAnswered, UpstreamError, UpstreamMalformed
from gateway.rest.json_reader import read_text, read_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.rest.transport import Answer

# What a person or a program can use; status.py cuts once more, to what fits a trailer.
MAX_VIOLATIONS = 200
MAX_TEXT = 4_000
MAX_DEPTH = 8
# A longer wait than a job may last is no use to anyone.
MAX_RETRY_AFTER_SECONDS = 86_400.0

MEANINGS = {
    400: "the upstream refused the request",
    401: "the upstream did not accept the credential",
    403: "the upstream does not permit this to the credential",
    404: "the upstream does not know what was asked for",
    409: "the upstream saw a conflict with the state of the job",
    413: "the request is too large for the upstream",
    429: "the upstream asks to slow down",
    502: "a proxy got no usable answer from the upstream",
    503: "the upstream is not available",
    504: "a proxy got no answer from the upstream in time",
}


def read_error(answer: Answer, now: float, redact: Callable[[str], str]) -> UpstreamError:
    """The error in an answer outside 200 to 299; `now` is in seconds since the epoch.

    `redact` takes out of a text what must not be shown, should the upstream echo it.
    """
    status = answer.status
    if 300 <= status < 400:
        return UpstreamMalformed(
            f"the upstream answered with a redirect (HTTP {status}), which is not followed",
            http_status=status,
        )
    meaning = MEANINGS.get(status, "the upstream failed" if status >= 500 else "the upstream refused the request")
    value = read_value(answer.body)
    violations = tuple(
        FieldViolation(redact(each.field), redact(each.description)) for each in _violations(value) if status == 400
    )
    said = "; ".join(f"{each.field}: {each.description}" for each in violations) or redact(_sentence(value))
    return UpstreamAnswered(
        status,
        f"{meaning} (HTTP {status})" + (f": {said[:MAX_TEXT]}" if said else ""),
        violations=violations,
        retry_after=read_retry_after(answer.retry_after, now),
    )


def read_retry_after(value: str | None, now: float) -> float | None:
    """The wait in seconds, 0 to 86400, that `Retry-After` asks for (RFC 9110, 10.2.3), or None where it says none."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        # More digits than this are more than the cap, and int() refuses thousands of them.
        return min(float(text[:12]), MAX_RETRY_AFTER_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, moment - now), MAX_RETRY_AFTER_SECONDS)


def _sentence(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[name] for name in ("detail", "message", "error") if value.get(name)), None)
    return read_text(value)


def _violations(value: Any) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if isinstance(value, dict):
        # A plain {"detail": "..."} speaks of no field.
        members = {name: each for name, each in value.items() if name != "detail" or not isinstance(each, str)}
        _collect(members, "", 0, found)
    return found


def _collect(value: Any, path: str, depth: int, found: list[FieldViolation]) -> None:
    if len(found) >= MAX_VIOLATIONS:
        return
    if isinstance(value, dict) and depth < MAX_DEPTH:
        for name, each in value.items():
            _collect(each, f"{path}.{name}" if path else str(name), depth + 1, found)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        texts = [each for each in value if isinstance(each, str)]
        if texts:
            found.append(_violation(path, " ".join(texts)))
        for index, each in enumerate(value):
            if isinstance(each, dict | list) and each:
                _collect(each, f"{path}.{index}", depth + 1, found)
    elif value is not None and value not in ({}, []):
        found.append(_violation(path, value if isinstance(value, str) else str(value)))


def _violation(path: str, description: str) -> FieldViolation:
    return FieldViolation(read_text(path)[:MAX_TEXT], read_text(description)[:MAX_TEXT])
