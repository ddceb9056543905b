"""Decode JSON objects field by field, to report every invalid field and to keep the bytes of raw ones."""

from __future__ import annotations

import json
import re
from types import UnionType
from typing import Any, NoReturn, TypeAlias, TypeVar, get_args

import msgspec

Errors: TypeAlias = "dict[str, list[str] | Errors]"
"""Field errors in the form of the REST API: messages by field, nested if the field is an object."""

Model = TypeVar("Model", bound=msgspec.Struct)


class FieldErrors(Exception):
    """Fields of a body are invalid.

    Attributes:
        errors: the messages by field.

    """

    def __init__(self, errors: Errors) -> None:
        super().__init__(f"bad fields: {', '.join(errors)}")
        self.errors = errors


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text, because only the end of a value matters here, and Python limits the digits of an int.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
_SPACE = re.compile(r"[ \t\n\r]*")


def members(document: bytes) -> dict[str, bytes]:
    """Return the members of a JSON object, each value as its bytes in the document.

    The standard library scans it, because msgspec rejects lone surrogates, which are valid JSON.

    Raises:
        ValueError: the document is not JSON, not UTF-8, too deep, or not an object.

    """
    text = document.decode()
    found: dict[str, bytes] = {}
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise ValueError("not a JSON object")
    position = _skip(text, position + 1)
    closed = text[position : position + 1] == "}"
    while not closed:
        if text[position : position + 1] != '"':
            raise ValueError(f"a name expected at character {position}")
        name, position = _value(text, position)
        start = _skip(text, _after(text, position, ":"))
        _, end = _value(text, start)
        found[str(name)] = text[start:end].encode()
        position = _skip(text, end)
        closed = text[position : position + 1] == "}"
        if not closed:
            position = _skip(text, _after(text, position, ","))
    if _skip(text, position + 1) != len(text):
        raise ValueError("something follows the JSON object")
    return found


def decode_fields(model: type[Model], document: bytes) -> Model:
    """Decode the object in `document` as a `model`, and check each field. Unknown members are ignored.

    A field that is a struct is checked in the same way, and its errors are nested.

    Raises:
        FieldErrors: fields have a wrong type or a value out of range.
        ValueError: as `members`.

    """
    given = members(document)
    values: dict[str, object] = {}
    errors: Errors = {}
    for field in msgspec.structs.fields(model):
        if (raw := given.get(field.encode_name)) is None:
            continue
        try:
            values[field.name] = _decode(field.type, raw)
        except FieldErrors as error:
            errors[field.encode_name] = error.errors
        except ValueError as error:  # includes those of msgspec
            errors[field.encode_name] = [str(error)]
    if errors:
        raise FieldErrors(errors)
    return model(**values)


def _decode(kind: Any, raw: bytes) -> object:
    if kind is msgspec.Raw:
        # Kept unchanged: msgspec would scan it, and reject some valid JSON.
        return msgspec.Raw(raw)
    options = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct) and raw != b"null":
            return decode_fields(option, raw)
    return msgspec.json.decode(raw, type=kind)


def _value(text: str, position: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _after(text: str, position: int, mark: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != mark:
        raise ValueError(f"{mark!r} expected at character {position}")
    return position + 1
