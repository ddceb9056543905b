"""Tests of the JSON that clients may send, and of the cost of the check."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.strict_json import MAX_DEPTH, check_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b" {} \n",
        b'{"a":{"a":[{"a":1},{"a":1}]}}',
        b"1e999",
        b"9" * 10_000,
        b"-0",
        b'"\\ud800"',
        b'"\\u0000"',
        '{"ключ":"値 \u2028"}'.encode(),
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'"' + b"[" * 1_000 + b'"',
        b'["\\"[[[", {"]\\\\": "]"}]',
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_one_json_value_is_accepted(raw: bytes) -> None:
    check_json(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "it is not JSON"),
        (b"{} {}", "it is not JSON"),
        (b"{'a': 1}", "it is not JSON"),
        (b'{"a":1,}', "it is not JSON"),
        (b'{"a":"\n"}', "it is not JSON"),
        (b'{"a":\n 01}', r"it is not JSON: .* \(line 2, column 3\)"),
        (b"NaN", "NaN is not a JSON value"),
        (b"[-Infinity]", "-Infinity is not a JSON value"),
        (b'"\xff"', r"it is not UTF-8 \(byte 1\)"),
        (b'"\xed\xa0\x80"', "it is not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "it is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b'{"a":1,"b":{"c":1,"c":2}}', "an object has the key 'c' twice"),
        (b'{"a":1,"\\u0061":2}', "an object has the key 'a' twice"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested more than 500 levels deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 500 levels deep"),
        (b"[" * 100_000, "nested more than 500 levels deep"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_anything_else_is_rejected_with_a_reason(raw: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_json(raw)


@given(json_values)
def test_any_json_of_python_is_accepted(value: Any) -> None:
    check_json(json.dumps(value).encode())
    check_json(json.dumps(value, ensure_ascii=False, indent=1).encode(errors="replace"))


@given(st.binary() | st.text(alphabet='{}[]",:\\ 0123456789.eE+-truefalsn\n', max_size=30).map(str.encode))
def test_arbitrary_bytes_are_accepted_or_rejected(raw: bytes) -> None:
    try:
        check_json(raw)
    except ValueError:
        return
    json.loads(raw.decode())


def test_a_repeated_key_among_many_is_found_quickly() -> None:
    # A search for each key would take an hour.
    keys = ",".join(f'"{number}":0' for number in range(500_000))
    with pytest.raises(ValueError, match="'499999' twice"):
        check_json(f'{{{keys},"499999":0}}'.encode())


def test_many_escapes_take_little_memory() -> None:
    raw = b'"' + b"\\n" * (1 << 20) + b'"'
    tracemalloc.start()
    try:
        check_json(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(raw)
