"""`google.protobuf.Struct` and JSON, each way, exactly."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from google.protobuf import struct_pb2

MAX_EXACT_INTEGER = 2**53
DIGITS_OF_A_DOUBLE = 15


def struct_to_json(struct: struct_pb2.Struct) -> bytes:
    """The JSON of a Struct; integral numbers up to 2^53 as integers.

    Raises `NotJsonError` for NaN, infinities and values without a kind.
    """
    return json.dumps(_members(struct, ()), ensure_ascii=False, separators=(",", ":")).encode()


# A path stays a tuple until it is told: joined at each value, a long key over many would take quadratic time.
Path = tuple[str | int, ...]


def _members(struct: struct_pb2.Struct, path: Path) -> dict[str, Any]:
    return {
        name: _plain(value, (*path, name))
        # `fields` would make an entry of a key that is looked up and absent; items() makes none.
        for name, value in struct.fields.items()
    }


def _plain(value: struct_pb2.Value, path: Path) -> Any:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value, path)
        case "struct_value":
            return _members(value.struct_value, path)
        case "list_value":
            return [_plain(each, (*path, index)) for index, each in enumerate(value.list_value.values)]
        case _:
            raise NotJsonError(path, "the value has no kind; a JSON null is null_value")


def _number(number: float, path: Path) -> float:
    if not math.isfinite(number):
        raise NotJsonError(path, f"the number is {number}, which JSON cannot hold")
    # -0.0 stays a float, for the integer would lose its sign.
    if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER and (number or math.copysign(1, number) > 0):
        return int(number)
    return number


class NotJsonError(ValueError):
    """A Struct holds what JSON cannot; `path` says where, with dots."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = ".".join(map(str, path))


class NotExactError(ValueError):
    """A Struct cannot hold the JSON, or not exactly."""


def json_to_struct(raw: bytes | memoryview, *, max_depth: int, rounded: bool) -> struct_pb2.Struct:
    """The Struct of a JSON object with at most `max_depth` levels of objects and arrays, the outermost as 1.

    Raises `NotExactError` where there is none: another JSON value, deeper nesting, text that UTF-8 cannot carry, a
    number beyond a double, and, unless `rounded`, a number that a double does not hold exactly or a key twice.
    """
    try:
        value = json.loads(
            bytes(raw).decode(),
            parse_int=_rounded if rounded else _exact_integer,
            parse_float=_rounded if rounded else _exact_fraction,
            object_pairs_hook=dict if rounded else _unique,
            parse_constant=_refuse,
        )
    except (ValueError, OverflowError, RecursionError) as error:
        raise NotExactError("a Struct cannot hold it") from error
    if not isinstance(value, dict):
        raise NotExactError("a Struct holds an object only")
    struct = struct_pb2.Struct()
    _fill(struct, value, max_depth)
    return struct


def _fill(struct: struct_pb2.Struct, members: dict[str, Any], depth: int) -> None:
    if depth < 1:
        raise NotExactError("it is nested too deeply")
    for name, value in members.items():
        _set(struct.fields[_text(name)], value, depth)


def _set(slot: struct_pb2.Value, value: Any, depth: int) -> None:
    if value is None:
        slot.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotExactError("a number is beyond a double")
        slot.number_value = value
    elif isinstance(value, str):
        slot.string_value = _text(value)
    elif isinstance(value, dict):
        slot.struct_value.SetInParent()
        _fill(slot.struct_value, value, depth - 1)
    else:
        if depth < 2:
            raise NotExactError("it is nested too deeply")
        slot.list_value.SetInParent()
        for each in value:
            _set(slot.list_value.values.add(), each, depth - 1)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotExactError("it has a lone surrogate, which no protobuf string can hold") from error
    return text


def _rounded(text: str) -> float:
    # Not float itself: a function of Python's lets other threads run between two numbers.
    return float(text)


def _exact_integer(text: str) -> float:
    number = float(text)
    # Every digit of an integer may matter, for it may be an id: the double must be that very integer.
    if len(text) > DIGITS_OF_A_DOUBLE and not (math.isfinite(number) and Decimal(text) == Decimal(number)):
        raise NotExactError("an integer has more digits than a double holds")
    return number


def _exact_fraction(text: str) -> float:
    number = float(text)
    try:
        # No double is 0.1: that it is written so again is as exact as a double can be.
        exact = math.isfinite(number) and Decimal(text) in (Decimal(number), Decimal(repr(number)))
    except ArithmeticError as error:
        raise NotExactError("a number is beyond a double") from error
    if not exact:
        raise NotExactError("a number has more digits than a double holds")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise NotExactError("an object has a key twice")
    return members


def _refuse(name: str) -> float:
    raise NotExactError(f"{name} is not JSON")
