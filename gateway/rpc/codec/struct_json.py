"""Exact conversion between `google.protobuf.Struct` and JSON, in both directions."""

from __future__ import annotations

import json
import math
import struct
from decimal import Decimal
from typing import Any

import msgspec
from google.protobuf import struct_pb2

from gateway.rpc.codec.wire import FIXED64, tag, varint
from gateway.strict_json import DIGITS_OF_A_DOUBLE, has_few_digits, reject_constant, unique_members

MAX_EXACT_INTEGER = 2**53
# The bytes of a number in a list: the least that a number takes.
NUMBER_BYTES = 11


def struct_to_json(message: struct_pb2.Struct) -> bytes:
    """Return the JSON of a Struct, with integral numbers up to 2^53 as integers.

    Raises:
        NotJsonError: A number is NaN or infinite, or a value has no kind.
    """
    return msgspec.json.encode(_members(message, ()))


# A path is joined only in an error: joined at each value, a long key over many values takes quadratic time.
Path = tuple[str | int, ...]


def _members(message: struct_pb2.Struct, path: Path) -> dict[str, Any]:
    return {
        name: _plain(value, (*path, name))
        # Looking up an absent key in `fields` would create it; items() does not.
        for name, value in message.fields.items()
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
            raise NotJsonError(path, "the value has no kind; use null_value for a JSON null")


def _number(number: float, path: Path) -> float:
    if not math.isfinite(number):
        raise NotJsonError(path, f"must be a finite number (got {number})")
    # -0.0 stays a float, because an integer would lose its sign.
    if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER and (number or math.copysign(1, number) > 0):
        return int(number)
    return number


class NotJsonError(ValueError):
    """A Struct has no JSON; `path` is the place, with dots."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = ".".join(map(str, path))


class NotExactError(ValueError):
    """JSON has no Struct, or not an exact one."""


def encode_struct(
    raw: bytes | memoryview, *, max_depth: int, max_bytes: int, rounded: bool, constants_as_text: bool = False
) -> bytes:
    """Return the encoded Struct of a JSON object.

    Args:
        raw: The JSON.
        max_depth: The most levels of objects and arrays; the outermost is 1.
        max_bytes: The largest Struct.
        rounded: Whether numbers may be rounded, and the last of several values of a key counts.
        constants_as_text: Whether NaN and the infinities become strings; otherwise they are not JSON.

    Raises:
        NotExactError: There is no such Struct: the JSON is not an object, too deep or too large, or has text that is
            not UTF-8 or a number beyond a double. Unless `rounded`, also if it has a number that no double represents
            exactly, or a key twice.
    """
    numbers = _Numbers(max_bytes)
    try:
        value = json.loads(
            bytes(raw).decode(),
            parse_int=numbers.rounded if rounded else numbers.exact_integer,
            parse_float=numbers.rounded if rounded else numbers.exact_fraction,
            object_pairs_hook=dict if rounded else unique_members,
            parse_constant=str if constants_as_text else reject_constant,
        )
    except (ValueError, OverflowError, RecursionError) as error:
        raise NotExactError("a Struct cannot hold it") from error
    if not isinstance(value, dict):
        raise NotExactError("a Struct holds an object only")
    encoded = _struct(value, max_depth)
    if len(encoded) > max_bytes:
        raise NotExactError("it is too large")
    return encoded


class _Numbers:
    """Reads numbers as doubles, at most as many as a Struct of `max_bytes` may have."""

    def __init__(self, max_bytes: int) -> None:
        # Two bytes of JSON may be eleven of a Struct and many more in Python, so excess is detected early.
        self._left = max_bytes // NUMBER_BYTES

    def rounded(self, text: str) -> float:
        """Return the nearest double."""
        self._left -= 1
        if self._left < 0:
            raise NotExactError("it is too large")
        return float(text)

    def exact_integer(self, text: str) -> float:
        """Return the double that equals this integer exactly, because it may be an id."""
        number = self.rounded(text)
        if len(text) > DIGITS_OF_A_DOUBLE and not (math.isfinite(number) and Decimal(text) == Decimal(number)):
            raise NotExactError("an integer has more digits than a double holds")
        return number

    def exact_fraction(self, text: str) -> float:
        """Return the double that is written in the same way again, because no double equals 0.1."""
        number = self.rounded(text)
        # Every fraction of so few digits is exact in this sense, unless it has an exponent.
        if has_few_digits(text):
            return number
        try:
            exact = math.isfinite(number) and _is_exact(text, number)
        except ArithmeticError as error:
            raise NotExactError("a number is beyond a double") from error
        if not exact:
            raise NotExactError("a number has more digits than a double holds")
        return number


def _is_exact(text: str, number: float) -> bool:
    decimal = Decimal(text)
    if decimal == Decimal(repr(number)):
        return True
    # A double may have hundreds of digits, which take long to compute. m / 2^k has at least 0.69 k of them, and a large
    # integer ends in at most 22 zeros, so a much shorter text cannot be equal.
    _, divisor = number.as_integer_ratio()
    least = 0.69 * (divisor.bit_length() - 1) if divisor > 1 else math.log10(abs(number) or 1) - 23
    return len(text) >= least and decimal == Decimal(number)


# Encoded here, because building a message of many small ones takes twice the time, and encoding it blocks all other
# threads.
_KEY, _VALUE = (tag(struct_pb2.Struct.FieldsEntry.DESCRIPTOR, name) for name in ("key", "value"))
_FIELD = tag(struct_pb2.Struct.DESCRIPTOR, "fields")
_ELEMENT = tag(struct_pb2.ListValue.DESCRIPTOR, "values")
_STRING, _STRUCT, _LIST = (
    tag(struct_pb2.Value.DESCRIPTOR, name) for name in ("string_value", "struct_value", "list_value")
)
_NUMBER = tag(struct_pb2.Value.DESCRIPTOR, "number_value", FIXED64)
_NULL = struct_pb2.Value(null_value=struct_pb2.NULL_VALUE).SerializeToString()
_TRUE, _FALSE = (struct_pb2.Value(bool_value=value).SerializeToString() for value in (True, False))
_double = struct.Struct("<d").pack


def _struct(members: dict[str, Any], depth: int) -> bytes:
    if depth < 1:
        raise NotExactError("it is nested too deeply")
    return b"".join([_delimited(_FIELD, _entry(name, value, depth)) for name, value in members.items()])


def _entry(name: str, value: Any, depth: int) -> bytes:
    return _delimited(_KEY, _text(name)) + _delimited(_VALUE, _value(value, depth))


def _value(value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        return _delimited(_STRING, _text(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotExactError("a number is beyond a double")
        return _NUMBER + _double(value)
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, dict):
        return _delimited(_STRUCT, _struct(value, depth - 1))
    return _delimited(_LIST, _list(value, depth - 1))


def _list(values: list[Any], depth: int) -> bytes:
    if depth < 1:
        raise NotExactError("it is nested too deeply")
    return b"".join([_delimited(_ELEMENT, _value(value, depth)) for value in values])


def _delimited(start: bytes, content: bytes) -> bytes:
    return b"%b%b%b" % (start, varint(len(content)), content)


def _text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise NotExactError("it has a lone surrogate, which no protobuf string can hold") from error
