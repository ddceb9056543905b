"""JSON of the upstream: members as their own bytes, or `UpstreamMalformed`."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw, UnsetType

from gateway.errors import UpstreamMalformed
from gateway.upstream import json as upstream_json
from gateway.upstream.json import MemberReader, read_beginning, read_report, read_text, read_value

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# With such a member, msgspec rejects the object, although it is JSON.
LONE = rb'"lone":"\ud800",'

DEEP = 5_000
NOT_JSON_WHERE_IT_IS_DEEP = [
    b"[" * DEEP + inner + b"]" * DEEP
    for inner in (
        b"1,",
        b",1",
        b"1 2",
        b"{",
        b"}",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b"{1:2}",
        b"[}",
        b"01",
        b"nan",
        b"-NaN",
        b"'a'",
    )
] + [b"[" * DEEP, b"[" * DEEP + b"]" * (DEEP + 1), b"[" * DEEP + b"}" * DEEP]


def read_members(body: bytes) -> dict[str, memoryview]:
    """Read all members."""
    try:
        value = json.loads(body.decode("latin-1"), parse_int=str)
    except (ValueError, RecursionError):
        value = None
    names = value if isinstance(value, dict) else ("a", "uid", "z")
    return upstream_json.read_members(body, frozenset(names))


@given(
    st.text(alphabet='{}[]",:\\ 01.truefalsn\n', max_size=40).map(lambda text: f'{{"a":0,{text}}}')
    | st.lists(st.tuples(st.sampled_from("abcd"), json_values), max_size=8).map(
        lambda pairs: "{" + ",".join(f'"{name}": {json.dumps(value)}' for name, value in pairs) + "}"
    )
)
def test_members_that_are_not_asked_for_change_nothing(text: str) -> None:
    body = text.encode()
    try:
        members = read_members(body)
    except UpstreamMalformed:
        with pytest.raises(UpstreamMalformed):
            upstream_json.read_members(body, frozenset({"b"}))
    else:
        assert upstream_json.read_members(body, frozenset({"b"})) == {k: v for k, v in members.items() if k == "b"}


class Form(msgspec.Struct):
    """Return the members of an object as the reader finds them."""

    first: Raw | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    last: Raw | UnsetType = UNSET


ODD_VALUES = [
    b"0",
    b"-0",
    b"1e999",
    b"NaN",
    b"[NaN,-Infinity , Infinity]",
    b"[" * DEEP + b"NaN" + b"]" * DEEP,
    b"9007199254740993",
    b"9" * 5_000,
    b"1." + b"3" * 5_000,
    b'"\\ud800\\u0041"',
    b'"\\udc00\\ud800"',
    b'"\\\\ud800"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'{"a":1,"a":2}',
    b'{ "a" :\t[ 1 ,\r\n2 ] }',
    b'"},{"',
    b"null",
    b"[" * 500 + b"]" * 500,
    b'{"a":' * 500 + b"{}" + b"}" * 500,
]


@pytest.mark.parametrize("prefix", [b"", LONE], ids=["plain", "beside a lone surrogate"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value[:20]))
def test_a_member_is_its_own_bytes(prefix: bytes, value: bytes) -> None:
    body = b' {"first":1 , %b"value":\n %b ,"last":[]}\n' % (prefix, value)
    members = MemberReader(Form).read(body)
    assert [bytes(raw) for raw in (members.first, members.value, members.last) if raw is not UNSET] == [
        b"1",
        value,
        b"[]",
    ]


@pytest.mark.parametrize("prefix", [b"", LONE], ids=["plain", "beside a lone surrogate"])
@pytest.mark.parametrize(
    "rest",
    [
        b'"a":1,}',
        b'"a":1,,"b":2}',
        b'"a":1',
        b'"a":[1,}',
        b'"a"}',
        b'"a":}',
        b'"a" 1}',
        b'"a":1 "b":2}',
        b"1:2}",
        b"a:2}",
        b'"a":nan}',
        b'"a":-NaN}',
        b'"a":+Infinity}',
        b'"a":NaNa}',
        b'"a":01}',
        b'"a":"\n"}',
        b'"a":"\\x"}',
        b'"a":1}{}',
        b'"a":1} x',
        b'"a":\x001}',
    ],
)
def test_a_body_that_is_not_json_is_malformed(prefix: bytes, rest: bytes) -> None:
    with pytest.raises(UpstreamMalformed, match=r"^the upstream responded with text that is not JSON$"):
        MemberReader(Form).read(b"{" + prefix + rest)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b" \r\n", "an empty body"),
        (b"[1]", "a JSON list instead of a JSON object"),
        (b"null", "JSON null instead"),
        (b'"{}"', "a JSON string instead"),
        (b"1", "a JSON number or boolean instead"),
        (b"true", "a JSON number or boolean instead"),
        (b"nginx", "text that is not JSON"),
        (b"[", "text that is not JSON"),
        (b"NaN", "a JSON number or boolean instead"),
        (b"<html>502 Bad Gateway</html>", "text that is not JSON"),
        (b"\x00\xff", "text that is not JSON"),
        (b"\xef\xbb\xbf{}", "text that is not JSON"),
        ('{"uid":1}'.encode("utf-16"), "text that is not JSON in UTF-8 but seems to be UTF-16$"),
        ('{"uid":1}'.encode("utf-16-be"), "seems to be UTF-16$"),
        ('{"uid":1}'.encode("utf-32"), "seems to be UTF-32$"),
        ('{"uid":1}'.encode("utf-32-be"), "seems to be UTF-32$"),
        (b"[" * 100_000 + b"]" * 100_000, "a JSON list instead"),
        *((b'{"a":' + deep + b"}", "text that is not JSON") for deep in NOT_JSON_WHERE_IT_IS_DEEP),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_body_that_is_not_an_object_is_named(body: bytes, said: str) -> None:
    with pytest.raises(UpstreamMalformed, match=said):
        MemberReader(Form).read(body)


@pytest.mark.parametrize("lone", [b"", LONE])
@pytest.mark.parametrize("inner", [b"", b'1,"\\"]",{"a" : -1.5E+3 ,"b":{}},[ ],null', b'"\xff\\u00e9"'])
def test_a_value_of_any_depth_is_cut_out_as_it_stands(lone: bytes, inner: bytes) -> None:
    deep = b"[" * 100_000 + inner + b"]" * 100_000
    members = read_members(b"{" + lone + b' "uid" : 7 , "a":' + deep + b', "z":"end"}')
    assert bytes(members["a"]) == deep
    assert (bytes(members["uid"]), bytes(members["z"])) == (b"7", b'"end"')


def test_the_last_of_two_equal_keys_counts_for_both_readers() -> None:
    assert MemberReader(Form).read(b'{"value":1,"value":2}') == Form(value=Raw(b"2"))
    assert MemberReader(Form).read(b"{" + LONE + b'"value":1,"value":2}') == Form(value=Raw(b"2"))


@pytest.mark.parametrize("name", [b"\xff", b"\\ud800", "ключ".encode()])
def test_names_that_are_no_text_hide_no_other_member(name: bytes) -> None:
    assert bytes(read_members(b'{"%b":1,"uid":7}' % name)["uid"]) == b"7"


@given(
    st.dictionaries(st.text(alphabet="abc_", max_size=4), json_values, max_size=5),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_any_object_is_split_into_its_bytes(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    pieces = {
        name: json.dumps(each, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
        for name, each in value.items()
    }
    body = b"{%b}" % b" ,\n".join(b'"%b" :%b' % (name.encode(), piece) for name, piece in pieces.items())
    assert read_members(body) == pieces


@given(
    st.binary()
    | st.text(alphabet='{}[]",:\\ ud80019.eE+-truefalsn\n', max_size=40).map(lambda text: f"{{{text}}}".encode())
)
def test_arbitrary_bytes_are_an_object_or_malformed(body: bytes) -> None:
    try:
        members = read_members(body)
    except UpstreamMalformed:
        return
    # Python's reader sees the same number of members. Latin-1 decodes all bytes.
    assert len(members) == len(json.loads(body.decode("latin-1"), parse_int=str))


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_the_text_in_arbitrary_bytes_is_text_or_empty(raw: bytes) -> None:
    text = read_text(read_value(raw))
    assert text.encode().decode() == text


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, None),
        (b"null", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1" * 5_000, float("inf")),
        (rb'["\ud800",' + b"1" * 5_000 + b"]", ["\ud800", float("inf")]),
        (b'"a\xffb"', "a\ufffdb"),
        (b"[-Infinity,Infinity]", [float("-inf"), float("inf")]),
        (b"1e999", float("inf")),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_is_read_regardless_of_its_contents(raw: bytes | None, value: object) -> None:
    assert read_value(raw) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("é 🙂", "é 🙂"),
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude42", "🙂"),
        ("\ufeffa", "\ufeffa"),
        (None, ""),
        (1, ""),
        (["a"], ""),
    ],
)
def test_text_can_be_encoded_as_utf_8(value: object, text: str) -> None:
    assert read_text(value) == text


@given(json_values, st.data(), st.sampled_from(["", "\ufeff"]), st.sampled_from(["utf-8", "utf-16", "utf-32-be"]))
def test_json_that_broke_off_is_read_as_far_as_it_came(
    value: Any, data: st.DataObject, mark: str, encoding: str
) -> None:
    text = json.dumps({"first": "here", "value": value})
    end = data.draw(st.integers(len('{"first": "here",'), len(text) - 1))
    body = (mark + text[:end]).encode(encoding)
    beginning, broken_off = read_report(body)
    assert broken_off
    assert beginning["first"] == "here"
    assert read_report(text.encode()) == ({"first": "here", "value": value}, False)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"", None),
        (b"<html>", None),
        (b'["a', []),
        (b'["a", "b', ["a"]),
        (b'{"a": 1, "b', {"a": 1}),
        (b"[NaN, 1, ", ["nan", 1]),
        (rb'["\ud800b", "\ud83d\ude42", "\\ud800", "c', ["\ufffdb", "\U0001f642", "\\ud800"]),
        (b'["a", "\xff", "c', ["a", "\ufffd"]),
        (b'{"a": "b", "c": ' + b"[" * 100_000, "a"),
        (rb'{"a": "\ud800", "c": ' + b"[" * 100_000, "a"),
    ],
    ids=lambda raw: repr(raw)[:30],
)
def test_the_readable_part_of_incomplete_json_is_read(raw: bytes, value: Any) -> None:
    beginning = read_beginning(raw)
    if value == "a":
        assert list(beginning) == ["a", "c"]
    else:
        assert json.loads(json.dumps(beginning).replace("NaN", '"nan"')) == value


TEXTS = b'"[[", "\\"", '


@pytest.mark.parametrize("closing", [b"", b"]}"], ids=["broken off", "whole"])
@pytest.mark.parametrize(
    "long", [b"x" * 200_000, b"\\\\" * 100_000, b'\\"' * 100_000], ids=["x", "backslashes", "quotes"]
)
def test_only_the_start_of_a_large_error_body_is_read(closing: bytes, long: bytes) -> None:
    many = b'{"x":[' + TEXTS + b"[]," * 100_000 + b"1" + closing
    value, broken_off = read_report(many)
    assert broken_off
    assert value["x"][:2] == ["[[", '"']
    assert len(value["x"]) < 30_000
    # A string is read to its end.
    value, broken_off = read_report(b'{"a":[' + TEXTS + b'1],"detail":"%b","b":1' % long + closing[1:])
    assert value["detail"] == json.loads(b'"%b"' % long)


def test_a_large_report_that_is_one_text_is_read() -> None:
    assert read_report(b'{"detail":"%b"}' % (b"x" * 200_000)) == ({"detail": "x" * 200_000}, True)
