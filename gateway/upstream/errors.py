"""Reads what an upstream answer that is no success says: a sentence, field by field, and when to come back."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.errors import FieldViolation, UpstreamError, UpstreamMalformed, UpstreamStatusError
from gateway.text import CUT_MARK
from gateway.upstream.json import read_report, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.upstream.transport import HttpResponse

# What a person or a program can use. A trailer holds less: rpc/status.py cuts once more, with a mark.
MAX_VIOLATIONS = 500
MAX_TEXT = 4_000
MAX_DEPTH = 8
# Longer than the text that is kept of it and a token together, so that a token is never cut before it is redacted.
MAX_PATH = 4 * MAX_TEXT
# A longer wait than a job may last is no use to anyone.
MAX_RETRY_AFTER_SECONDS = 86_400.0
# Several headers of this name come joined by commas; more text than this says nothing more.
MAX_RETRY_AFTER_TEXT = 1_000
SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?")
# The comma in a date of HTTP follows the day of the week.
BETWEEN_VALUES = re.compile(r"(?<!mon|tue|wed|thu|fri|sat|sun|day),", re.IGNORECASE)

# Where an answer says what is wrong as a whole.
SENTENCES = ("detail", "message", "error")

# Elsewhere an object is a form of its own, such as {"code": ..., "messages": [...]}.
SPEAK_OF_FIELDS = frozenset({400, 422})
REDIRECTS = frozenset({301, 302, 303, 307, 308})

BROKEN_OFF = FieldViolation(CUT_MARK, "the upstream's answer was too long, or broke off, and there may be more")
# What may stand before JSON: a byte order mark and white space.
LEADING = b"\xef\xbb\xbf \t\r\n"
# What is wrong with the request as a whole.
NO_FIELD = "non_field_errors"

NUMBERS_AS_WORDS = {"True": "true", "False": "false", "inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
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


def read_error(response: HttpResponse, now: float, redact: Callable[[str], str]) -> UpstreamError:
    """The error in an answer outside 200 to 299; `now` is in seconds since the epoch.

    `redact` takes out of a text what must not be shown, should the upstream echo it.
    """
    status = response.status
    if status < 400:
        redirect = f"a redirect (HTTP {status}), which is not followed"
        what = redirect if status in REDIRECTS else f"HTTP {status}, which is no answer to the request"
        return UpstreamMalformed(f"the upstream answered with {what}", http_status=status)
    meaning = MEANINGS.get(status, "the upstream failed" if status >= 500 else "the upstream refused the request")
    value, broken_off = read_report(response.body)
    violations = _violations(value, redact) if status in SPEAK_OF_FIELDS else ()
    if broken_off and 0 < len(violations) < MAX_VIOLATIONS:
        violations += (BROKEN_OFF,)
    said = redact(_sentence(value))
    for each in violations:
        if len(said) > MAX_TEXT:
            break
        said = "; ".join(filter(None, (said, f"{each.field}: {each.description}")))
    # A body that broke off is told by how it begins.
    from_api = isinstance(value, dict) or response.body.lstrip(LEADING)[:1] == b"{"
    if not from_api and not said and status < 500 and status not in UpstreamStatusError.TRANSIENT_CLIENT_ERRORS:
        said = "the response has no JSON object, so it may be a proxy's and not the API's own"
    return UpstreamStatusError(
        status,
        f"{meaning} (HTTP {status})" + (f": {said[:MAX_TEXT]}" if said else ""),
        violations=violations,
        retry_after=read_retry_after(response.retry_after, now),
        from_api=from_api,
    )


def read_retry_after(value: str | None, now: float) -> float | None:
    """Return the wait in seconds, 0 to 86400, that `Retry-After` asks for (RFC 9110, 10.2.3), or None.

    Of several values the longest counts. Fractions of a second are read, though HTTP has none.
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
        # One of the three forms of a date in HTTP has no zone: all of them are UTC.
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
    # A plain {"detail": "..."} speaks of no field.
    fields = {name: each for name, each in value.items() if name not in SENTENCES or not isinstance(each, str)}
    if NO_FIELD in fields:
        # First, for what is over the limits is cut off at the end.
        fields = {NO_FIELD: fields[NO_FIELD], **fields}
    return tuple(
        # Redacted before the cut, which could leave a part of what is to be taken out.
        FieldViolation(redact(read_text(_joined(path)))[:MAX_TEXT], redact(read_text(said))[:MAX_TEXT])
        for path, said in islice(_walk(fields, ()), MAX_VIOLATIONS)
    )


def _joined(path: tuple[str, ...]) -> str:
    # A key may be as long as the body and stand over a thousand values.
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
            yield path, "what is wrong stands too deep in the upstream's answer to be told"
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _walk(each, (*path, name))
    else:
        said = (each for each in value if each is not None and not isinstance(each, dict | list))
        # Each is a character and a blank at least.
        words = [_words(each) for each in islice(said, MAX_TEXT)]
        if words:
            yield path, " ".join(words)
        for index, each in enumerate(value):
            if isinstance(each, dict | list):
                yield from _walk(each, (*path, str(index)))


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    # As json.dumps writes them, in a tenth of the time.
    return NUMBERS_AS_WORDS.get(word := repr(value), word)
