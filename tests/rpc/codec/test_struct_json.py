"""`Struct` and JSON, in both directions: equal, or an error with the place."""

import json
import math
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc.codec.struct_json import NotExactError, NotJsonError, encode_struct, struct_to_json

text = st.text(st.characters(exclude_categories=["Cs"]))
plain_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
structs = st.dictionaries(text, plain_values, max_size=5).map(lambda members: _struct(members))


def _struct(members: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(members)
    return struct


def json_to_struct(raw: bytes, *, max_depth: int, rounded: bool) -> struct_pb2.Struct:
    return struct_pb2.Struct.FromString(encode_struct(raw, max_depth=max_depth, max_bytes=1 << 20, rounded=rounded))


def _exact(raw: bytes, max_depth: int = 32) -> struct_pb2.Struct:
    return json_to_struct(raw, max_depth=max_depth, rounded=False)


@given(structs)
def test_a_struct_to_json_and_back_is_equal(struct: struct_pb2.Struct) -> None:
    raw = struct_to_json(struct)
    assert _exact(raw, max_depth=100) == struct
    assert json_to_struct(raw, max_depth=100, rounded=True) == struct


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0.0, b"0"),
        (-0.0, b"-0.0"),
        (3.0, b"3"),
        (-7.0, b"-7"),
        (0.1, b"0.1"),
        (1e15, b"1000000000000000"),
        (2.0**53, b"9007199254740992"),
        (-(2.0**53), b"-9007199254740992"),
        (2.0**53 + 2, b"9007199254740994.0"),
        (1e300, b"1e300"),
        (5e-324, b"5e-324"),
    ],
)
def test_integral_numbers_up_to_2_53_are_written_as_integers(number: float, written: bytes) -> None:
    assert struct_to_json(_struct({"a": number})) == b'{"a":%b}' % written


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_outside_json_is_rejected_with_its_path(number: float) -> None:
    with pytest.raises(NotJsonError, match=r"got -?(nan|inf)") as caught:
        struct_to_json(_struct({"beam": {"loads": [1, {"x": number}]}}))
    assert caught.value.path == "beam.loads.1.x"


def test_a_value_without_a_kind_is_refused_with_its_path() -> None:
    struct = _struct({"a": {"b": 1}})
    struct.fields["a"].struct_value.fields["c"].SetInParent()
    with pytest.raises(NotJsonError, match="has no kind") as caught:
        struct_to_json(struct)
    assert caught.value.path == "a.c"


def test_a_long_key_over_many_values_is_copied_once_at_most() -> None:
    # If the path were joined at each value, this would copy 100 GB.
    struct = _struct({"k" * 1_000_000: [0] * 100_000})
    assert len(struct_to_json(struct)) == 1_000_000 + 200_000 + 6


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "-0",
        "1",
        "9007199254740992",
        "9007199254740994",
        "18446744073709551616",
        "0.1",
        "-12.50",
        "1e3",
        "1E+22",
        "1e23",
        "1.7976931348623157e308",
        "5e-324",
        "0.30000000000000004",
        "0e5",
        "100000000000000000000",
        "1" + "0" * 22,
    ],
)
def test_a_number_that_a_double_holds_is_exact(number: str) -> None:
    held = _exact(f'{{"a":{number}}}'.encode()).fields["a"].number_value
    assert Decimal(number) in (Decimal(held), Decimal(repr(held)))


@pytest.mark.parametrize(
    "number",
    [
        "9007199254740993",
        "-9007199254740993",
        "12345678901234567000",
        "9007199254740993.0",
        "1700000000123456789",
        "0.1000000000000000055",
        "3.14159265358979323846",
        "1e-400",
        "-1e-400",
        "1e400",
        "1e999",
        "1" * 400,
        "1" * 5_000,
        "4e-324",
        "1e-999999999",
        "1e99999999999999999999999",
        "1e-99999999999999999999999",
        "0." + "3" * 100_000,
        "1" + "0" * 23,
    ],
    ids=lambda number: number[:24],
)
def test_a_number_that_a_double_does_not_hold_is_not_exact(number: str) -> None:
    with pytest.raises(NotExactError):
        _exact(f'{{"a":[{number}]}}'.encode())


@pytest.mark.parametrize(
    ("number", "rounded"),
    [
        ("9007199254740993", 2.0**53),
        ("0.1000000000000000055", 0.1),
        ("1e-400", 0.0),
        ("12345678901234567890", 1.2345678901234567e19),
    ],
)
def test_numbers_are_rounded_on_request(number: str, rounded: float) -> None:
    struct = json_to_struct(f'{{"a":{number}}}'.encode(), max_depth=32, rounded=True)
    assert struct.fields["a"].number_value == rounded


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"[]",
        b"1",
        b'"a"',
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda raw: repr(raw[:20]) if isinstance(raw, bytes) else None,
)
def test_values_no_struct_can_hold_are_refused_even_rounded(raw: bytes, *, rounded: bool) -> None:
    with pytest.raises(NotExactError):
        json_to_struct(raw, max_depth=32, rounded=rounded)


def test_a_duplicate_key_is_not_exact_and_the_last_one_counts() -> None:
    raw = b'{"a":1,"a":2}'
    with pytest.raises(NotExactError):
        _exact(raw)
    assert json_to_struct(raw, max_depth=1, rounded=True) == _struct({"a": 2})


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")])
def test_depth_counts_objects_and_arrays_from_one(opening: bytes, closing: bytes) -> None:
    raw = b'{"a":' + opening * 4 + b"1" + closing * 4 + b"}"
    assert json.loads(struct_to_json(_exact(raw, max_depth=5))) == json.loads(raw)
    with pytest.raises(NotExactError):
        _exact(raw, max_depth=4)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("inner", [b'"%b"' % (b"x" * 100), b"[" + b"1," * 20 + b"1]", b"[" + b"1.5," * 20 + b"1.5]"])
def test_the_limit_is_of_the_struct(inner: bytes, *, rounded: bool) -> None:
    raw = b'{"a":%b}' % inner
    size = len(encode_struct(raw, max_depth=32, max_bytes=1000, rounded=rounded))
    assert len(encode_struct(raw, max_depth=32, max_bytes=size, rounded=rounded)) == size
    with pytest.raises(NotExactError):
        encode_struct(raw, max_depth=32, max_bytes=size - 1, rounded=rounded)


def test_digits_beyond_the_limit_are_not_read() -> None:
    raw = b'{"a":[' + b"1," * 1_000_000 + b"1]}"
    tracemalloc.start()
    with pytest.raises(NotExactError):
        encode_struct(raw, max_depth=32, max_bytes=1 << 10, rounded=True)
    # The text and its copy; a million doubles would take ten times as much.
    assert tracemalloc.get_traced_memory()[1] < 3 * len(raw)
    tracemalloc.stop()


@given(
    st.binary() | st.text(alphabet='{}[]":,\\ud80019.eE+-', max_size=40).map(lambda inner: f'{{"a":{inner}}}'.encode())
)
def test_arbitrary_bytes_give_a_struct_or_are_refused(raw: bytes) -> None:
    for rounded in (False, True):
        try:
            struct = json_to_struct(raw, max_depth=32, rounded=rounded)
        except NotExactError:
            continue
        assert struct_pb2.Struct.FromString(struct.SerializeToString()) == struct
