"""`google.protobuf.Struct` and JSON, each way, exactly."""

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
# Of a number in a list, the least that there is.
NUMBER_BYTES = 11


def struct_to_json(message: struct_pb2.Struct) -> bytes:
    """The JSON of a Struct; integral numbers up to 2^53 as integers.

    Raises `NotJsonError` for NaN, infinities and values without a kind.
    """
    return msgspec.json.encode(_members(message, ()))


# A path stays a tuple until it is told: joined at each value, a long key over many would take quadratic time.
Path = tuple[str | int, ...]


def _members(message: struct_pb2.Struct, path: Path) -> dict[str, Any]:
    return {
        name: _plain(value, (*path, name))
        # `fields` would make an entry of a key that is looked up and absent; items() makes none.
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


def encode_struct(
    raw: bytes | memoryview, *, max_depth: int, max_bytes: int, rounded: bool, constants_as_text: bool = False
) -> bytes:
    """The encoded Struct of a JSON object with at most `max_depth` levels of objects and arrays, the outermost as 1.

    `constants_as_text` makes strings of NaN and the infinities, which are no JSON otherwise.

    Raises `NotExactError` where there is none of at most `max_bytes`: another JSON value, deeper nesting, text that
    UTF-8 cannot carry, a number beyond a double, and, unless `rounded`, a number that a double does not hold exactly or
    a key twice.
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
    """Reads numbers as doubles, no more of them than a Struct of `max_bytes` has."""

    def __init__(self, max_bytes: int) -> None:
        # Two bytes of JSON may be eleven of a Struct, and many more of Python's, so what is too much is found early.
        self._left = max_bytes // NUMBER_BYTES

    def rounded(self, text: str) -> float:
        """The nearest double."""
        self._left -= 1
        if self._left < 0:
            raise NotExactError("it is too large")
        return float(text)

    def exact_integer(self, text: str) -> float:
        """The double that is this very integer, for every digit may matter: it may be an id."""
        number = self.rounded(text)
        if len(text) > DIGITS_OF_A_DOUBLE and not (math.isfinite(number) and Decimal(text) == Decimal(number)):
            raise NotExactError("an integer has more digits than a double holds")
        return number

    def exact_fraction(self, text: str) -> float:
        """The double that is written so again: no double is 0.1, and this is as exact as one can be."""
        number = self.rounded(text)
        # Any fraction of so few digits is; beside exponents that is not so.
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
    # All digits of a double may be hundreds, and take long to find: a text that is much shorter cannot hold them. Of
    # m / 2^k they are 0.69 k at least, and a large integer ends in 22 zeros at most.
    _, divisor = number.as_integer_ratio()
    least = 0.69 * (divisor.bit_length() - 1) if divisor > 1 else math.log10(abs(number) or 1) - 23
    return len(text) >= least and decimal == Decimal(number)


# Encoded here, because to build a message of many small ones takes twice the time, and to encode it lets no other
# thread run meanwhile.
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
