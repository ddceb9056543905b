"""Read an error response: its message, the fields that it names, and when to retry."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.errors import FieldViolation, UpstreamError, UpstreamMalformed, UpstreamStatusError
from gateway.strict_json import BYTE_ORDER_MARK, WHITESPACE
from gateway.text import CUT_MARK
from gateway.upstream.causes import CHECK_ADDRESS
from gateway.upstream.json import read_report, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.upstream.transport import HttpResponse

# Limits of what is read. A gRPC trailer holds less, so rpc/status.py cuts again and marks it.
MAX_VIOLATIONS = 500
MAX_TEXT = 4_000
MAX_DEPTH = 8
# Longer than `MAX_TEXT` and a token together, so that a token is never cut before it is redacted.
MAX_PATH = 4 * MAX_TEXT
# The longest time that a job may take.
MAX_RETRY_AFTER_SECONDS = 86_400.0
# Several headers of this name are joined by commas; the rest of a longer text is ignored.
MAX_RETRY_AFTER_TEXT = 1_000
SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?")
# A comma after the day of the week belongs to an HTTP date.
BETWEEN_VALUES = re.compile(r"(?<!mon|tue|wed|thu|fri|sat|sun|day),", re.IGNORECASE)

# Members that describe the whole error, the first one that is present.
SENTENCES = ("detail", "message", "error")

# Only with these statuses are the members of the object fields of the request. With others it has another form, such as
# {"code": ..., "messages": [...]}.
FIELD_ERROR_STATUSES = frozenset({400, 422})
# A page with one of them shows that requests go to the wrong place.
WRONG_ADDRESS = frozenset({400, 404, 405, 410, 421})
REDIRECTS = frozenset({301, 302, 303, 307, 308})

TRUNCATED = FieldViolation(CUT_MARK, "the upstream's response was too long or incomplete; more fields may be invalid")
# The key for errors that concern the whole request.
NO_FIELD = "non_field_errors"

NUMBERS_AS_WORDS = {"True": "true", "False": "false", "inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
MEANINGS = {
    400: "the upstream rejected the request",
    401: "the upstream did not accept the credential",
    403: "the upstream does not allow this for the credential",
    404: "the upstream found no such job, entity or workspace",
    407: "a proxy asks for credentials, which the gateway does not have",
    409: "the upstream found a conflict with the state of the job",
    413: "the request is too large for the upstream",
    429: "the upstream asks to slow down",
    502: "a proxy got no usable response from the upstream",
    503: "the upstream is not available",
    504: "a proxy got no response from the upstream in time",
}


def read_error(response: HttpResponse, now: float, redact: Callable[[str], str]) -> UpstreamError:
    """Return the error in a response with a status outside 200 to 299.

    Args:
        response: the response, of which at most 64 KiB are read.
        now: in seconds since the epoch, to read dates in `Retry-After`.
        redact: removes the credential from a text, in case the upstream echoes it.
    """
    status = response.status
    if status < 400:
        redirect = f"a redirect (HTTP {status}), which is not followed"
        seen = redirect if status in REDIRECTS else f"HTTP {status}, which is neither success nor error"
        cause = f"the upstream responded with {seen}"
        return UpstreamMalformed(f"{cause}; {CHECK_ADDRESS}", cause=cause, http_status=status)
    meaning = MEANINGS.get(status, "the upstream failed" if status >= 500 else "the upstream rejected the request")
    value, broken_off = read_report(response.body)
    violations = _violations(value, redact) if status in FIELD_ERROR_STATUSES else ()
    if broken_off and 0 < len(violations) < MAX_VIOLATIONS:
        violations += (TRUNCATED,)
    said = redact(_sentence(value))
    for each in violations:
        if len(said) > MAX_TEXT:
            break
        said = "; ".join(filter(None, (said, f"{each.field}: {each.description}")))
    quotes_others = bool(said)
    # An incomplete body counts by its first character.
    from_api = isinstance(value, dict) or begins_object(response.body)
    if not from_api and not said and status < 500 and status not in UpstreamStatusError.TRANSIENT_CLIENT_ERRORS:
        if status in WRONG_ADDRESS:
            meaning = "the response is not from the API"
            said = f"it has no JSON object; {CHECK_ADDRESS}"
        else:
            said = "the response has no JSON object, so it may come from a proxy instead of the API"
    return UpstreamStatusError(
        status,
        f"{meaning} (HTTP {status})" + (f": {said[:MAX_TEXT]}" if said else ""),
        violations=violations,
        retry_after=read_retry_after(response.retry_after, now),
        from_api=from_api,
        quotes_others=quotes_others,
    )


def begins_object(body: bytes) -> bool:
    """Return whether a body begins with a JSON object, as those of the API do."""
    return body.lstrip(BYTE_ORDER_MARK + WHITESPACE)[:1] == b"{"


def with_status(error: UpstreamMalformed, response: HttpResponse) -> UpstreamMalformed:
    """Return the error of reading a success, with its status, and with advice if the body is not the API's."""
    advice = "" if begins_object(response.body) else f"; {CHECK_ADDRESS}"
    return UpstreamMalformed(f"{error}{advice}", cause=error.cause, http_status=response.status)


def read_retry_after(value: str | None, now: float) -> float | None:
    """Return the wait in seconds, 0 to 86400, that `Retry-After` asks for (RFC 9110, 10.2.3), or None.

    Of several values the longest counts. Fractions of a second are accepted, although HTTP has none.
    """
    if value is None:
        return None
    parts = BETWEEN_VALUES.split(value[:MAX_RETRY_AFTER_TEXT])
    waits = [wait for each in parts if (wait := _wait(each.strip(), now)) is not None]
    return min(max(0.0, *waits), MAX_RETRY_AFTER_SECONDS) if waits else None


def _wait(text: str, now: float) -> float | None:
    if SECONDS.fullmatch(text):
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        # One of the three date formats of HTTP has no zone; all are in UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _sentence(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[name] for name in SENTENCES if value.get(name) and isinstance(value[name], str)), None)
    elif isinstance(value, list):
        value = " ".join(each for each in value if isinstance(each, str))
    return read_text(value)


def _violations(value: Any, redact: Callable[[str], str]) -> tuple[FieldViolation, ...]:
    if not isinstance(value, dict):
        return ()
    # A plain {"detail": "..."} names no field.
    fields = {name: each for name, each in value.items() if name not in SENTENCES or not isinstance(each, str)}
    if NO_FIELD in fields:
        # First, because the limits cut off the last ones.
        fields = {NO_FIELD: fields[NO_FIELD], **fields}
    return tuple(
        # Redact before the cut, which could leave a part of the credential.
        FieldViolation(redact(read_text(_joined(path)))[:MAX_TEXT], redact(read_text(said))[:MAX_TEXT])
        for path, said in islice(_walk(fields, ()), MAX_VIOLATIONS)
    )


def _joined(path: tuple[str, ...]) -> str:
    # A key may be as long as the body, and have thousands of values.
    joined = path[0][:MAX_PATH] if path else ""
    for name in path[1:]:
        if len(joined) >= MAX_PATH:
            break
        joined = f"{joined}.{name[:MAX_PATH]}"
    return joined


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(value, dict | list):
        if value is not None:
            yield path, _words(value)
    elif len(path) == MAX_DEPTH:
        if value:
            yield path, "the upstream's response is nested too deep to read this error"
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _walk(each, (*path, name))
    else:
        said = (each for each in value if each is not None and not isinstance(each, dict | list))
        # Each takes at least two characters of `MAX_TEXT`.
        words = [_words(each) for each in islice(said, MAX_TEXT)]
        if words:
            yield path, " ".join(words)
        for index, each in enumerate(value):
            if isinstance(each, dict | list):
                yield from _walk(each, (*path, str(index)))


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    # The same text as from json.dumps, in a tenth of the time.
    return NUMBERS_AS_WORDS.get(word := repr(value), word)
