"""Which requests are the same under one request_id."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.models import SendJob
from gateway.submit.fingerprint import fingerprint_of

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

JOB = SendJob(
    "1",
    7,
    poll_result=True,
    method_name="m",
    method_type="t",
    editor_session="12345678-1234-1234-1234-123456789abc",
    params=b'{"a":1}',
    events=("a", "b"),
    timeout=30,
    arguments=b"{}",
    method="old",
)


def _of(params: bytes) -> bytes:
    return fingerprint_of(SendJob("1", 7, params=params))


def test_it_has_32_bytes_and_is_the_same_in_every_process() -> None:
    assert fingerprint_of(SendJob("1", 7)).hex() == "bc00dc3ae93a714e9437d371045c4f3bf8ec7b10123d6b3ae03b7708ffe36afc"


@pytest.mark.parametrize(
    "change",
    [
        {"poll_result": None},
        {"editor_session": "12345678-1234-1234-1234-123456789ABC"},
        {"params": b' { "a" : 1.0 } '},
        {"arguments": b" { } "},
    ],
)
def test_differences_that_do_not_change_the_job_do_not_count(change: dict[str, Any]) -> None:
    assert fingerprint_of(replace(JOB, **change)) == fingerprint_of(JOB)


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": "2"},
        {"entity_id": 8},
        {"method_name": "n"},
        {"method_name": None, "method": "m"},
        {"method_type": None},
        {"editor_session": None},
        {"params": None},
        {"params": b"null"},
        {"params": b'{"a":2}'},
        {"params": None, "arguments": b'{"a":1}'},
        {"events": ("b", "a")},
        {"events": ()},
        {"timeout": 31},
        {"timeout": None},
        {"arguments": None},
        {"arguments": b"null"},
        {"method": None},
    ],
)
def test_every_other_field_counts_and_so_does_unset(change: dict[str, Any]) -> None:
    assert fingerprint_of(replace(JOB, **change)) != fingerprint_of(JOB)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"1.0"),
        (b"100", b"1e2"),
        (b"100", b"1.00E+2"),
        (b"0.01", b"1e-2"),
        (b"-1.50", b"-15e-1"),
        (b"0", b"-0.0"),
        (b"0", b"0e99999999999999999999999"),
        (b"1e999", b"10e998"),
        (b"1" + b"0" * 5_000, b"1e5000"),
        (b"1" + b"0" * 4_299, b"1e4299"),
        (b"1" + b"0" * 4_300, b"1e4300"),
        (b"0.1", b"0.1000000000000000000000000"),
        (b"0.1", b"1000000000000000000000000e-25"),
        (b"-12.5", b"-0.0000000000000000000125e21"),
        (b"10", b"1e0000000000000000000001"),
        (b"0.1", b"1e-" + b"0" * 5_000 + b"1"),
        (b"1e-300", b"0.1e-299"),
        (b"123456789.25", b"12345678925e-2"),
        (b'{"a":1,"b":2}', b'{ "b" : 2, "a" : 1 }'),
        (b'"\\u00e9"', '"é"'.encode()),
        (b'"\\ud83d\\ude42"', '"🙂"'.encode()),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_equal_json_values_are_the_same(one: bytes, other: bytes) -> None:
    assert _of(one) == _of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"-1"),
        (b"1", b"10"),
        (b"1", b'"1"'),
        (b"1", b'"1e0"'),
        (b"1", b'["1e0"]'),
        (b"1", b'{"":"1e0"}'),
        (b"0", b'{"":"0"}'),
        (b'{"":1}', b'{"=":1}'),
        (b"9007199254740993", b"9007199254740992"),
        (b"0.1", b"0.1000000000000000055511151231257827"),
        (b"1e999", b"1e998"),
        (b"1e-400", b"0"),
        (b"1e-400", b"2e-400"),
        (b"0.1", b"0.10000000000000000001"),
        (b"1" * 5_000, b"1" * 4_999 + b"2"),
        (b"[1,2]", b"[2,1]"),
        (b"[]", b"{}"),
        (b"null", b'"null"'),
        (b"true", b"1"),
        (b'"\\ud800"', b'"\\udfff"'),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_different_json_values_are_not_the_same(one: bytes, other: bytes) -> None:
    assert _of(one) != _of(other)


@pytest.mark.parametrize(
    "raw",
    [
        b"1e99999999999999999999999",
        b"1e-99999999999999999999999",
        b"1e" + b"9" * 5_000,
        b"[" * 500 + b"1" + b"]" * 500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_any_params_json_has_a_fingerprint(raw: bytes) -> None:
    assert _of(raw) == _of(b" %b " % raw) != _of(b"1")


@given(json_values, json_values)
def test_two_values_are_equal_exactly_if_python_says_so(one: Any, other: Any) -> None:
    def typed(value: Any) -> Any:
        # To Python True is 1.
        if isinstance(value, list):
            return [typed(each) for each in value]
        if isinstance(value, dict):
            return {name: typed(each) for name, each in value.items()}
        return (isinstance(value, bool), value)

    assert (_of(json.dumps(one).encode()) == _of(json.dumps(other).encode())) == (typed(one) == typed(other))
    assert _of(json.dumps(one).encode()) == _of(json.dumps(one, ensure_ascii=True, indent=2).encode())
