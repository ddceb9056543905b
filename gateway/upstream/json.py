"""Reads JSON of the upstream as bytes, and leaves what is not looked at as it was sent."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic_core

from gateway.errors import UpstreamMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value = msgspec.json.Decoder()
_name = json.JSONDecoder()

KINDS = {"[": "a JSON list", '"': "a JSON string", "n": "JSON null"}

# int() refuses more digits than 4,300; any int64 has fewer than this.
MAX_INTEGER_DIGITS = 20


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What the first bytes of JSON in UTF-16 and UTF-32 look like, with a byte order mark or without (RFC 4627, 3).
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
# pydantic reads at most 200 levels.
MAX_BROKEN_DEPTH = 150
# More blanks before a value are no answer that anyone writes.
MAX_BLANKS = 1_000
# A pair of surrogates stays; a lone one cannot be read. `\\.` skips every other escape.
_SURROGATES = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|(\\.)", re.DOTALL
)
_BLANKS = re.compile(r"[ \t\r\n]*+")


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else float(text)


_lenient_value = json.JSONDecoder(parse_int=_integer)


def without_mark(body: bytes) -> bytes:
    """Return `body` without the byte order mark that some writers of UTF-8 put first."""
    return body.removeprefix(BYTE_ORDER_MARK)


def read_members(body: bytes) -> dict[str, memoryview]:
    """The members of the JSON object `body`, each as its own bytes, cut from `body` without a copy.

    NaN and the infinities count as numbers. Raises `UpstreamMalformed` if `body` is not one JSON object.
    """
    try:
        return {name: memoryview(raw) for name, raw in _members.decode(body).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec refuses lone surrogates, deep nesting and NaN; upstreams write all of them.
        return _read_members_leniently(body)


def _read_members_leniently(body: bytes) -> dict[str, memoryview]:
    view = memoryview(body)
    try:
        # In Latin-1 each character is one byte, so positions in the text are positions in the body.
        return {name: view[start:end] for name, start, end in _members_of(body.decode("latin-1"))}
    except (ValueError, IndexError) as error:
        encoding = _encoding_of(body)
        seen = f" in UTF-8 but seems to be {encoding}" if encoding else ""
        raise UpstreamMalformed(f"the upstream answered with text that is not JSON{seen}") from error


def _members_of(text: str) -> Iterator[tuple[str, int, int]]:
    """Where the values of an object begin and end. Raises `ValueError` or `IndexError` where it is no JSON."""
    position = _skip(text, 0)
    if position == len(text):
        raise UpstreamMalformed("the upstream answered with an empty body where a JSON object was expected")
    if text[position] != "{":
        end_of(text, position)
        kind = KINDS.get(text[position], "a JSON number or boolean")
        raise UpstreamMalformed(f"the upstream answered with {kind} where a JSON object was expected")
    position = _skip(text, position + 1)
    more = text[position] != "}"
    while more:
        name, position = _name.raw_decode(text, position)
        position = _skip(text, position)
        if not isinstance(name, str) or text[position] != ":":
            raise ValueError("a member has no name")
        start = _skip(text, position + 1)
        end = end_of(text, start)
        yield name, start, end
        position = _skip(text, end)
        if text[position] not in ",}":
            raise ValueError("a member has no end")
        more = text[position] == ","
        if more:
            position = _skip(text, position + 1)
    if _skip(text, position + 1) != len(text):
        raise ValueError("something follows the object")


def _skip(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position


def read_value(raw: memoryview | bytes | None) -> Any:
    """The value of a small piece of JSON, or None where it is absent, null or cannot be read.

    Invalid UTF-8 is replaced, lone surrogates stay (see `read_text`), and integers over 20 digits become floats.
    NaN and the infinities are read as floats.
    """
    if raw is None:
        return None
    try:
        return _value.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return _lenient_value.decode(bytes(raw).decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
    except RecursionError:
        return None


def read_beginning(raw: bytes) -> Any:
    """Return the value of JSON that broke off, or is nested too deep, as far as it can be read; None if not at all."""
    text = raw.decode(errors="replace")
    for prepare in (_as_it_is, _without_lone_surrogates, _not_too_deep):
        text = prepare(text)
        try:
            return pydantic_core.from_json(text, allow_partial=True)
        except ValueError:
            continue
    return None


def _as_it_is(text: str) -> str:
    return text


def _without_lone_surrogates(text: str) -> str:
    return _SURROGATES.sub(_readable, text)


def _not_too_deep(text: str) -> str:
    return text[: shallow_end(text, MAX_BROKEN_DEPTH)]


def _readable(escape: re.Match[str]) -> str:
    return escape[0] if escape.lastindex else "\\ufffd"


def read_report(body: bytes) -> tuple[Any, bool]:
    """Return the value of a body that is only looked at, and whether it broke off or could not be read as a whole.

    Nothing of such a body is passed on as bytes, so that UTF-16 and UTF-32 are read too. None if it is not JSON.
    """
    if _encoding_of(body) is not None:
        body = body.decode(json.detect_encoding(body), errors="replace").encode(errors="replace")
    body = without_mark(body)
    value = read_value(body)
    broken_off = value is None and body[:MAX_BLANKS].lstrip()[:1] in (b"{", b"[")
    return (read_beginning(body), True) if broken_off else (value, False)


def _encoding_of(body: bytes) -> str | None:
    return next((name for start, name in OTHER_ENCODINGS if body.startswith(start)), None)


def read_text(value: object) -> str:
    """`value` as text that UTF-8 can carry: lone surrogates replaced; "" where it is no string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _nothing(_: object) -> None:
    return None


# Builds next to nothing of what it reads: a value may be large, and its numbers of any size.
_structure = json.JSONDecoder(
    parse_int=_nothing, parse_float=_nothing, parse_constant=_nothing, object_pairs_hook=_nothing
)

# Possessive throughout, because backtracking would take memory for each step.
_TOKEN = re.compile(
    r"""[ \t\n\r]*+
    (?: (?P<string> "[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
      | (?P<scalar> -?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?
                    | true | false | null | NaN | -?Infinity)
      | (?P<mark> [\[\]{},:]) )""",
    re.VERBOSE,
)

# What may come where, and what is wanted after it. S is a string, V another scalar.
_NEXT = {
    **{
        (wanted, kind): after
        for wanted in ("value", "value or ]")
        for kind, after in (("S", "comma"), ("V", "comma"), ("[", "value or ]"), ("{", "name or }"))
    },
    ("value or ]", "]"): "closed",
    ("name or }", "S"): "colon",
    ("name or }", "}"): "closed",
    ("name", "S"): "colon",
    ("colon", ":"): "value",
    ("comma", ","): "next",
    ("comma", "]"): "closed",
    ("comma", "}"): "closed",
}


def end_of(text: str, position: int) -> int:
    """Where the JSON value that begins at `position` ends. Raises `ValueError` where there is none."""
    try:
        return _structure.raw_decode(text, position)[1]
    except RecursionError:
        return _end_of_deep(text, position)


def _end_of_deep(text: str, position: int) -> int:
    # Some ten times slower, and without recursion.
    closers: list[str] = []
    wanted = "value"
    while match := _TOKEN.match(text, position):
        kind = match["mark"] or ("S" if match["string"] else "V")
        after = _NEXT.get((wanted, kind))
        if after is None:
            break
        position = match.end()
        wanted = after
        if kind == "[":
            closers.append("]")
        elif kind == "{":
            closers.append("}")
        elif wanted == "closed":
            if closers.pop() != kind:
                break
            wanted = "comma"
        elif wanted == "next":
            wanted = "value" if closers[-1] == "]" else "name"
        if not closers:
            return position
    raise ValueError(f"no JSON at {position}")


# Possessive, as above.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|([\[{])|([\]}])', re.DOTALL)


def shallow_end(text: str, max_depth: int) -> int:
    """Return where the nesting of `text` first exceeds `max_depth`, or the length of `text` if it never does."""
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[1]:
            depth += 1
            if depth > max_depth:
                return match.start()
        elif match[2]:
            depth -= 1
    return len(text)
