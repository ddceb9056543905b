"""Reads JSON as bytes, leaving what is not looked at as it was sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from gateway.errors import UpstreamMalformed
from gateway.rest.json_scanner import end_of, mended

if TYPE_CHECKING:
    from collections.abc import Iterator

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value = msgspec.json.Decoder()
_name = json.JSONDecoder()

KINDS = {"[": "a JSON list", '"': "a JSON string", "n": "JSON null"}

# int() refuses more digits than 4,300; any int64 has fewer than this.
MAX_INTEGER_DIGITS = 20


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else float(text)


_lenient_value = json.JSONDecoder(parse_int=_integer, parse_constant=_refuse_constant)


def read_members(body: bytes) -> dict[str, memoryview]:
    """The members of the JSON object `body`, each as its own bytes, cut from `body` without a copy.

    Raises `UpstreamMalformed` where `body` is not one JSON object.
    """
    try:
        return {name: memoryview(raw) for name, raw in _members.decode(body).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec refuses lone surrogates and deep nesting, which are JSON all the same.
        return _read_members_leniently(body)


def _read_members_leniently(body: bytes) -> dict[str, memoryview]:
    view = memoryview(body)
    try:
        # In Latin-1 each character is one byte, so positions in the text are positions in the body.
        return {name: view[start:end] for name, start, end in _members_of(body.decode("latin-1"))}
    except (ValueError, IndexError) as error:
        raise UpstreamMalformed("the upstream answered with text that is not JSON") from error


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
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def read_value(raw: memoryview | bytes | None) -> Any:
    """The value of a small piece of JSON, or None where it is absent, null or cannot be read.

    Invalid UTF-8 is replaced, lone surrogates stay (see `read_text`), and integers over 20 digits become floats.
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
    """The value of JSON that broke off, as far as it came, or None where nothing can be read."""
    return read_value(mended(raw.decode(errors="replace")).encode(errors="surrogatepass"))


def read_text(value: object) -> str:
    """`value` as text that UTF-8 can carry: lone surrogates replaced; "" where it is no string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
