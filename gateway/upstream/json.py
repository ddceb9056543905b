"""Reads JSON of the upstream as bytes, and leaves what is not looked at as it was sent."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import pydantic_core

from gateway.errors import UpstreamMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator

Form = TypeVar("Form", bound=msgspec.Struct)

_value = msgspec.json.Decoder()
_name = json.JSONDecoder()

KINDS = {"[": "a JSON list", '"': "a JSON string", "n": "JSON null"}

# int() refuses more digits than 4,300; any int64 has fewer than this.
MAX_PARSED_INTEGER_DIGITS = 20


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
# What an error body may hold of lists and objects; a text that begins before is read to its end. Building more of them
# takes long, and no caller gets more.
MAX_REPORT_BYTES = 64 << 10
# A pair of surrogates stays; a lone one cannot be read. `\\.` skips every other escape.
_SURROGATES = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|(\\.)", re.DOTALL
)
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_TEXTS = re.compile(rb'(?:[^"]*+"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_BLANKS = re.compile(r"[ \t\r\n]*+")


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_PARSED_INTEGER_DIGITS else float(text)


_lenient_value = json.JSONDecoder(parse_int=_integer)


def without_mark(body: bytes) -> bytes:
    """Return `body` without the byte order mark that some writers of UTF-8 put first."""
    return body.removeprefix(BYTE_ORDER_MARK)


class MemberReader(Generic[Form]):
    """Reads those members of a JSON object that `form` has fields for, each as its own bytes; the others are skipped.

    The fields of `form` are `Raw` or unset.
    """

    def __init__(self, form: type[Form]) -> None:
        self._form = form
        self._decode = msgspec.json.Decoder(form).decode
        self._names = frozenset(form.__struct_fields__)

    def read(self, body: bytes | memoryview) -> Form:
        """Return the members, cut from `body` without a copy.

        NaN and the infinities count as numbers. Raises `UpstreamMalformed` if `body` is not one JSON object.
        """
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # msgspec refuses lone surrogates, deep nesting and NaN; upstreams write all of them.
            members = read_members(body, self._names)
            return self._form(**{name: msgspec.Raw(raw) for name, raw in members.items()})


def read_members(body: bytes | memoryview, names: frozenset[str]) -> dict[str, memoryview]:
    """Return the members of the JSON object `body` that have one of `names`; see `MemberReader`."""
    view = memoryview(body)
    try:
        # In Latin-1 each character is one byte, so positions in the text are positions in the body.
        members = _members_of(str(view, "latin-1"), _others(names))
        return {name: view[start:end] for name, start, end in members if name in names}
    except (ValueError, IndexError) as error:
        encoding = _encoding_of(bytes(view[:4]))
        seen = f" in UTF-8 but seems to be {encoding}" if encoding else ""
        raise UpstreamMalformed(f"the upstream answered with text that is not JSON{seen}") from error


# Of each reader one, and some of tests.
@lru_cache(maxsize=16)
def _others(names: frozenset[str]) -> re.Pattern[str]:
    # Members that are not asked for, many in one match; one whose name is written with escapes is looked at by itself.
    wanted = "|".join(map(re.escape, sorted(names)))
    name = rf'"(?!(?:{wanted})")[^"\\\x00-\x1f]*+"{_SPACE}:{_SPACE}'
    return re.compile(rf"(?:{name}{_FLAT}{_COMMA}){{1,{_RUN}}}+")


def _members_of(text: str, others: re.Pattern[str]) -> Iterator[tuple[str, int, int]]:
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
        while run := others.match(text, position):
            position = run.end()
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
    for prepare in (str, _without_lone_surrogates, _not_too_deep):
        text = prepare(text)
        try:
            return pydantic_core.from_json(text, allow_partial=True)
        except ValueError:
            continue
    return None


def _without_lone_surrogates(text: str) -> str:
    return _SURROGATES.sub(_readable, text)


def _not_too_deep(text: str) -> str:
    return text[: shallow_end(text, MAX_BROKEN_DEPTH)]


def _readable(escape: re.Match[str]) -> str:
    return escape[0] if escape.lastindex else "\\ufffd"


def read_report(body: bytes) -> tuple[Any, bool]:
    """Return the value of a body that is only looked at, and whether not all of it was read.

    It may have broken off, be too large, or be no JSON from some point on. Nothing of such a body is passed on as
    bytes, so that UTF-16 and UTF-32 are read too. None if it is not JSON.
    """
    if _encoding_of(body) is not None:
        body = body.decode(json.detect_encoding(body), errors="replace").encode(errors="replace")
    body = without_mark(body)
    beginning = _beginning_of(body)
    value = read_value(beginning) if len(beginning) == len(body) else None
    broken_off = value is None and body[:MAX_BLANKS].lstrip()[:1] in (b"{", b"[")
    return (read_beginning(beginning), True) if broken_off else (value, False)


def _beginning_of(body: bytes) -> bytes:
    if len(body) <= MAX_REPORT_BYTES:
        return body
    # Texts are never cut, because one that may hold a credential is redacted as a whole.
    texts = _TEXTS.match(body, 0, MAX_REPORT_BYTES)
    begun = body.find(b'"', texts.end() if texts else 0, MAX_REPORT_BYTES)
    text = _TEXT.match(body, begun) if begun >= 0 else None
    return body[: max(MAX_REPORT_BYTES, text.end() if text else 0)]


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
_SPACE = r"[ \t\n\r]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_SCALAR = r"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null|NaN|-?Infinity)"
_LEAF = f"(?:{_STRING}|{_SCALAR})"
_COMMA = f"{_SPACE},{_SPACE}"
_NAME = f"{_STRING}{_SPACE}:{_SPACE}"
_TOKEN = re.compile(rf"{_SPACE}(?:(?P<string>{_STRING})|(?P<scalar>{_SCALAR})|(?P<mark>[\[\]{{}},:]))")
# Many tokens in one match: lists and objects that are opened, or closed, one right after the other, and what lies
# between. The runs are bounded, because nothing else runs during a match.
_RUN = 1_000
# What is looked at in vain may be looked at again, so it is little.
_FEW = 8
_SMALL = rf"(?:{_LEAF}|\[{_SPACE}\]|\{{{_SPACE}\}})"
_FLAT = (
    rf"(?:{_LEAF}|\[{_SPACE}(?:{_LEAF}(?:{_COMMA}{_LEAF}){{0,{_FEW}}}+)?+{_SPACE}\]"
    rf"|\{{{_SPACE}(?:{_NAME}{_LEAF}(?:{_COMMA}{_NAME}{_LEAF}){{0,{_FEW}}}+)?+{_SPACE}\}})"
)
_ITEM_FIRST = rf"\[{_SPACE}(?:{_SMALL}{_COMMA}){{0,{_RUN}}}+"
_MEMBER_FIRST = rf"\{{{_SPACE}(?:{_NAME}{_SMALL}{_COMMA}){{0,{_RUN}}}+{_NAME}"
_ITEM_LAST = rf"(?:{_COMMA}{_SMALL}){{0,{_FEW}}}+{_SPACE}\]"
_MEMBER_LAST = rf"(?:{_COMMA}{_NAME}{_SMALL}){{0,{_FEW}}}+{_SPACE}\}}"
_OPENING = re.compile(rf"{_SPACE}(?:(?:{_ITEM_FIRST}|{_MEMBER_FIRST}){_SPACE}){{1,{_RUN}}}+")
_CLOSING = re.compile(rf"(?:{_ITEM_LAST}|{_MEMBER_LAST}){{1,{_RUN}}}+")
_ONE_CLOSING = re.compile(rf"{_ITEM_LAST}|{_MEMBER_LAST}")
_BETWEEN = {
    "]": re.compile(rf"(?:{_COMMA}{_FLAT}(?={_SPACE}[,\]])){{1,{_RUN}}}+"),
    "}": re.compile(rf"(?:{_COMMA}{_NAME}{_FLAT}(?={_SPACE}[,}}])){{1,{_RUN}}}+"),
}
_STRINGS = re.compile(_STRING)
_TO_BRACKETS = {code: None for code in range(128) if chr(code) not in "[]{}"}
_CLOSERS = str.maketrans("[{", "]}")

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
    # Slower, and without recursion.
    return _DeepScan(text, position).end()


class _DeepScan:
    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position
        self._wanted = "value"
        self._depth = 0
        # What closes the lists and objects that are open, a text for each run of them.
        self._closers: list[str] = []

    def end(self) -> int:
        """Return where the value ends. Raises `ValueError` if there is none."""
        self._step()
        while self._depth:
            self._step()
        return self._position

    def _step(self) -> None:
        if self._wanted == "comma":
            if not self._pass_between() and not self._pass_closing():
                self._pass_token()
        elif self._wanted not in ("value", "value or ]") or not self._pass_opening():
            self._pass_token()

    def _pass_opening(self) -> bool:
        run = _OPENING.match(self._text, self._position)
        if run is None:
            return False
        self._position = run.end()
        opened = _brackets(run[0]).translate(_CLOSERS)
        self._closers.append(opened)
        self._depth += len(opened)
        if self._depth > len(self._text) - self._position:
            raise ValueError("what was opened cannot all be closed")
        self._wanted = "value or ]" if run[0].rstrip().endswith("[") else "value"
        return True

    def _pass_between(self) -> bool:
        run = _BETWEEN[self._closers[-1][-1]].match(self._text, self._position)
        if run is not None:
            self._position = run.end()
        return run is not None

    def _pass_closing(self) -> bool:
        run = _CLOSING.match(self._text, self._position)
        if run is None:
            return False
        closed = _brackets(run[0])
        if len(closed) < self._depth:
            self._position = run.end()
        else:
            # Some of the run may close what is around the value.
            closed = closed[: self._depth]
            for _ in closed:
                one = _ONE_CLOSING.match(self._text, self._position)
                assert one is not None  # noqa: S101 - it was matched as a part of the run
                self._position = one.end()
        self._close(closed)
        return True

    def _pass_token(self) -> None:
        match = _TOKEN.match(self._text, self._position)
        kind = (match["mark"] or ("S" if match["string"] else "V")) if match else ""
        after = _NEXT.get((self._wanted, kind))
        if match is None or after is None:
            raise ValueError(f"no JSON at {self._position}")
        self._position = match.end()
        if kind in ("[", "{"):
            self._closers.append(kind.translate(_CLOSERS))
            self._depth += 1
        elif after == "closed":
            self._close(kind)
            after = "comma"
        elif after == "next":
            after = "value" if self._closers[-1][-1] == "]" else "name"
        self._wanted = after

    def _close(self, closed: str) -> None:
        self._depth -= len(closed)
        left = closed[::-1]
        while left:
            last = self._closers.pop()
            count = min(len(last), len(left))
            if last[-count:] != left[-count:]:
                raise ValueError("a list or object is closed that is not open")
            if count < len(last):
                self._closers.append(last[:-count])
            left = left[:-count]


def _brackets(run: str) -> str:
    """Return what a run opens or closes, without what it opens and closes again."""
    outside = _STRINGS.sub("", run) if '"' in run else run
    return outside.translate(_TO_BRACKETS).replace("[]", "").replace("{}", "")


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
