"""Rules of strict JSON (RFC 8259), shared by all readers of JSON in the gateway.

Python's reader also accepts NaN, repeated keys and lone surrogates. These functions reject or replace them, and each
reader of the gateway chooses the ones that it needs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

MAX_DEPTH = 500

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WHITESPACE = b" \t\r\n"
# The first bytes of JSON in UTF-16 and UTF-32, with or without a byte order mark (RFC 4627, section 3).
OTHER_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\0\0\0", "UTF-32"),
    (b"\0\0\0{", "UTF-32"),
    (b"{\0", "UTF-16"),
    (b"\0{", "UTF-16"),
)

# A double keeps all digits of a decimal number with up to 15 of them.
DIGITS_OF_A_DOUBLE = 15

_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"

# Possessive, because backtracking would take memory for each step: half a gigabyte for 8 MiB of escapes.
# A string without an end extends to the end of the text.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|([\[{])|([\]}])', re.DOTALL)
# A pair of surrogates, or a lone one, or any other escape.
_SURROGATES = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|(\\.)", re.DOTALL
)


def check_json(raw: bytes) -> None:
    """Check that `raw` is one JSON value in UTF-8, with the same meaning to all readers.

    Raises:
        ValueError: `raw` is empty, not UTF-8 or not JSON; an object has a key twice, so that readers may take
            different values from it; or it has more than 500 levels of nesting. The message is for the client.
    """
    if not raw.strip():
        raise ValueError("it is empty; leave it unset, or send a JSON value")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    try:
        json.loads(text, object_pairs_hook=_check_keys, parse_constant=reject_constant, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if shallow_end(text, MAX_DEPTH) < len(text):
        raise ValueError(_TOO_DEEP)


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    # Return nothing, because the members of a checked object are not needed.
    unique_members(pairs)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object (an `object_pairs_hook`). Raises `ValueError` for a key that occurs twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {twice!r} twice")
    return members


def reject_constant(name: str) -> NoReturn:
    """Reject NaN and the infinities (a `parse_constant`). Raises `ValueError`."""
    raise ValueError(f"{name} is not a JSON value")


def has_few_digits(number: str) -> bool:
    """Return whether a double keeps all digits of the JSON `number`: up to 15 characters and no exponent."""
    return len(number) <= DIGITS_OF_A_DOUBLE and "e" not in number and "E" not in number


def shallow_end(text: str, max_depth: int) -> int:
    """Return the index at which the nesting of `text` first exceeds `max_depth`, or the length of `text`."""
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[1]:
            depth += 1
            if depth > max_depth:
                return match.start()
        elif match[2]:
            depth -= 1
    return len(text)


def without_mark(body: bytes) -> bytes:
    """Return `body` without the byte order mark that some writers of UTF-8 put first."""
    return body.removeprefix(BYTE_ORDER_MARK)


def other_encoding(body: bytes) -> str | None:
    """Return the encoding that `body` seems to have instead of UTF-8, or None."""
    return next((name for start, name in OTHER_ENCODINGS if body.startswith(start)), None)


def to_utf8(body: bytes) -> bytes:
    """Return JSON in UTF-8, UTF-16 or UTF-32 as UTF-8 without a byte order mark."""
    if other_encoding(body) is not None:
        body = body.decode(json.detect_encoding(body), errors="replace").encode(errors="replace")
    return without_mark(body)


def without_lone_surrogates(text: str) -> str:
    r"""Replace the escapes of lone surrogates in the JSON `text` by `\ufffd`, which all readers can read."""
    return _SURROGATES.sub(lambda escape: escape[0] if escape.lastindex else "\\ufffd", text)


def encodable(text: str) -> str:
    """Return `text` with each lone surrogate replaced by U+FFFD, so that UTF-8 can encode it."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
