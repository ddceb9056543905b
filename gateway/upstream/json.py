"""Read the upstream's JSON as bytes: cut out the members that are needed, and build small values only."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import pydantic_core

from gateway.errors import UpstreamMalformed
from gateway.strict_json import encodable, other_encoding, shallow_end, to_utf8, without_lone_surrogates

if TYPE_CHECKING:
    from collections.abc import Iterator

Form = TypeVar("Form", bound=msgspec.Struct)

KINDS = {"[": "a JSON list", '"': "a JSON string", "n": "JSON null"}

# int() rejects more than 4,300 digits; any int64 has fewer digits than this.
MAX_PARSED_INTEGER_DIGITS = 20
# pydantic reads at most 200 levels.
MAX_BROKEN_DEPTH = 150
# A body with more white space before its first value counts as no JSON.
MAX_BLANKS = 1_000
# The part of an error body that is read, because building more lists and objects takes long, and no client gets more. A
# string that starts in this part is read to its end.
MAX_REPORT_BYTES = 64 << 10

_STRING_FROM = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_COMPLETE_STRINGS = re.compile(rb'(?:[^"]*+"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_BLANKS = re.compile(r"[ \t\r\n]*+")


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_PARSED_INTEGER_DIGITS else float(text)


_value = msgspec.json.Decoder()
_lenient_value = json.JSONDecoder(parse_int=_integer)
_name = json.JSONDecoder()


# Members of an object


class MemberReader(Generic[Form]):
    """Reads the members of a JSON object that `form` has fields for, each as its bytes, and skips all others.

    The fields of `form` are `Raw` or unset.
    """

    def __init__(self, form: type[Form]) -> None:
        self._form = form
        self._decode = msgspec.json.Decoder(form).decode
        self._names = frozenset(form.__struct_fields__)

    def read(self, body: bytes | memoryview) -> Form:
        """Return the members, as parts of `body` without a copy.

        NaN and the infinities count as numbers. Raises `UpstreamMalformed` if `body` is not one JSON object.
        """
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # msgspec rejects lone surrogates, deep nesting and NaN; upstreams write all of them.
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
        encoding = other_encoding(bytes(view[:4]))
        seen = f" in UTF-8 but seems to be {encoding}" if encoding else ""
        raise UpstreamMalformed(f"the upstream responded with text that is not JSON{seen}") from error


# One entry per reader, and some of tests.
@lru_cache(maxsize=16)
def _others(names: frozenset[str]) -> re.Pattern[str]:
    # Many members that are not asked for, in one match. A name with escapes does not match, and is decoded.
    wanted = "|".join(map(re.escape, sorted(names)))
    name = rf'"(?!(?:{wanted})")[^"\\\x00-\x1f]*+"{_SPACE}:{_SPACE}'
    return re.compile(rf"(?:{name}{_FLAT}{_COMMA}){{1,{_RUN}}}+")


def _members_of(text: str, others: re.Pattern[str]) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each value of an object. Raises `ValueError` or `IndexError` if it is no JSON."""
    position = _skip(text, 0)
    if position == len(text):
        raise UpstreamMalformed("the upstream responded with an empty body instead of a JSON object")
    if text[position] != "{":
        end_of(text, position)
        kind = KINDS.get(text[position], "a JSON number or boolean")
        raise UpstreamMalformed(f"the upstream responded with {kind} instead of a JSON object")
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


# Values


def read_value(raw: memoryview | bytes | None) -> Any:
    """Return the value of a small piece of JSON, or None if it is absent, null or unreadable.

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


def read_text(value: object) -> str:
    """Return a string without lone surrogates, or "" if `value` is not a string."""
    return encodable(value) if isinstance(value, str) else ""


# Error bodies


def read_report(body: bytes) -> tuple[Any, bool]:
    """Return the value of an error body, and whether it is incomplete.

    It is incomplete if the body is cut off, too large, nested too deep, or not JSON from some point on. UTF-16 and
    UTF-32 are read too, because no bytes of an error body are passed on. The value is None if it is not JSON.
    """
    body = to_utf8(body)
    beginning = _beginning_of(body)
    value = read_value(beginning) if len(beginning) == len(body) else None
    incomplete = value is None and body[:MAX_BLANKS].lstrip()[:1] in (b"{", b"[")
    return (read_beginning(beginning), True) if incomplete else (value, False)


def _beginning_of(body: bytes) -> bytes:
    if len(body) <= MAX_REPORT_BYTES:
        return body
    # A string is never cut, because it may hold a credential, which is redacted only if it is complete.
    strings = _COMPLETE_STRINGS.match(body, 0, MAX_REPORT_BYTES)
    start = body.find(b'"', strings.end() if strings else 0, MAX_REPORT_BYTES)
    string = _STRING_FROM.match(body, start) if start >= 0 else None
    return body[: max(MAX_REPORT_BYTES, string.end() if string else 0)]


def read_beginning(raw: bytes) -> Any:
    """Return the value of JSON that is cut off or nested too deep, as far as it is readable; None if it is not."""
    text = raw.decode(errors="replace")
    for prepare in (str, without_lone_surrogates, _not_too_deep):
        text = prepare(text)
        try:
            return pydantic_core.from_json(text, allow_partial=True)
        except ValueError:
            continue
    return None


def _not_too_deep(text: str) -> str:
    return text[: shallow_end(text, MAX_BROKEN_DEPTH)]


# The end of a value


def _nothing(_: object) -> None:
    return None


# Builds almost nothing, because a value may be large and its numbers of any size.
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
# One match takes many tokens: a run of opening brackets, or closing ones, and the values between. Runs are bounded,
# because nothing else runs during a match.
_RUN = 1_000
# The members tried before a match may fail. They may be tried again, so there are few.
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

# From the expected token and the one that was found to the next expected one. S is a string, V another scalar.
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
    """Return the end of the JSON value that starts at `position`. Raises `ValueError` if there is none."""
    try:
        return _structure.raw_decode(text, position)[1]
    except RecursionError:
        return _end_of_deep(text, position)


def _end_of_deep(text: str, position: int) -> int:
    # Slower than Python's reader, but without recursion.
    return _DeepScan(text, position).end()


class _DeepScan:
    """Finds the end of a value of any depth, in time proportional to its length."""

    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position
        self._wanted = "value"
        self._depth = 0
        # The brackets that close all open lists and objects, one string per run of them.
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
            raise ValueError("the rest is too short to close all brackets")
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
            # The end of the run may close lists and objects around the value.
            closed = closed[: self._depth]
            for _ in closed:
                one = _ONE_CLOSING.match(self._text, self._position)
                assert one is not None  # noqa: S101 - it matched as a part of the run
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
    """Return the brackets of a run, without pairs that are opened and closed within it."""
    outside = _STRINGS.sub("", run) if '"' in run else run
    return outside.translate(_TO_BRACKETS).replace("[]", "").replace("{}", "")
