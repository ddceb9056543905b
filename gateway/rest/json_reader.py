"""Reads JSON as bytes, leaving what is not looked at as it was sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.errors import UpstreamMalformed

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value = msgspec.json.Decoder()
_stdlib = json.JSONDecoder()


def read_members(body: bytes) -> dict[str, memoryview]:
    """The members of the JSON object `body`, each as its own bytes, cut from `body` without a copy.

    Raises `UpstreamMalformed` where `body` is not one JSON object.
    """
    try:
        return {name: memoryview(raw) for name, raw in _members.decode(body).items()}
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec refuses lone surrogates, which are JSON all the same.
        return _read_members_leniently(body)
    except RecursionError as error:
        raise UpstreamMalformed("the upstream answered with JSON that is nested too deeply") from error


def _read_members_leniently(body: bytes) -> dict[str, memoryview]:
    # In Latin-1 each character is one byte, so positions in the text are positions in the body.
    text = body.decode("latin-1")
    view = memoryview(body)
    members: dict[str, memoryview] = {}
    try:
        position = _skip(text, 0)
        if text[position] != "{":
            raise UpstreamMalformed(f"the upstream answered with {_kind(body)} where a JSON object was expected")
        position = _skip(text, position + 1)
        while text[position] != "}":
            name, position = _stdlib.raw_decode(text, position)
            position = _skip(text, position)
            if not isinstance(name, str) or text[position] != ":":
                raise UpstreamMalformed("the upstream answered with text that is not JSON")
            start = _skip(text, position + 1)
            position = _stdlib.raw_decode(text, start)[1]
            members[name] = view[start:position]
            position = _skip(text, position)
            if text[position] == ",":
                position = _skip(text, position + 1)
            elif text[position] != "}":
                raise UpstreamMalformed("the upstream answered with text that is not JSON")
        if _skip(text, position + 1) != len(text):
            raise UpstreamMalformed("the upstream answered with more than one JSON value")
    except (ValueError, IndexError) as error:
        raise UpstreamMalformed("the upstream answered with text that is not JSON") from error
    except RecursionError as error:
        raise UpstreamMalformed("the upstream answered with JSON that is nested too deeply") from error
    return members


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _kind(body: bytes) -> str:
    try:
        return {list: "a JSON list", type(None): "JSON null", str: "a JSON string"}.get(
            type(json.loads(body)), "a JSON value"
        )
    except ValueError:
        return "text that is not JSON"


def read_value(raw: memoryview | bytes | None) -> Any:
    """The value of a small piece of JSON, or None where it is absent, null or cannot be read."""
    if raw is None:
        return None
    try:
        return _value.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(bytes(raw).decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
    except RecursionError:
        return None


def read_text(value: object) -> str:
    """`value` as text that UTF-8 can carry: lone surrogates replaced; "" where it is no string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
