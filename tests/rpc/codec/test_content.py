"""The placement of results, by every rule of `ContentFormat`."""

import json
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestInvalid, ResultTooLarge
from gateway.models import Job, JobStatus, Result
from gateway.rpc.codec.content import (
    MAX_AUTOMATIC_STRUCT_BYTES,
    MAX_DEFAULT_CLIENT_BYTES,
    MAX_ONE_MESSAGE_BYTES,
    Placement,
    place_result,
    read_format,
)
from gateway.rpc.codec.events import encode_job
from gateway.rpc.codec.struct_json import struct_to_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

UNSPECIFIED, STRUCT = pb.CONTENT_FORMAT_UNSPECIFIED, pb.CONTENT_FORMAT_STRUCT
JSON, CHUNKS, NONE = pb.CONTENT_FORMAT_JSON, pb.CONTENT_FORMAT_JSON_CHUNKS, pb.CONTENT_FORMAT_NONE

MIB = 1 << 20


def _put(raw: bytes, content_format: pb.ContentFormat.ValueType, *, streaming: bool = True) -> tuple[pb.Job, str]:
    """Return the message and the field that has the result."""
    result = Result(memoryview(raw), sha256(raw).hexdigest())
    job = Job(1, JobStatus.SUCCESS, "success", done=True, observe_time=0.0, result=result)
    encoded = encode_job(job, content_format, streaming=streaming)
    message = pb.Job.FromString(b"".join(encoded.buffers))
    where = message.WhichOneof("result") or ("chunks" if encoded.chunked else "nowhere")
    assert message.content_omitted == (where in ("chunks", "nowhere"))
    assert (message.uid, message.content_size) == (1, len(raw))
    if where == "content_json":
        assert message.content_json == raw
    return message, where


def _of_size(size: int) -> bytes:
    """A JSON object of exactly `size` bytes, whose Struct is about as large."""
    return b'{"a":"%b"}' % (b"x" * (size - 8))


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def _digits_of_double(text: str) -> Decimal:
    return Decimal(float(text))


NUMBERS = b'{"a":[' + b"1," * 300_000 + b"1]}"

PLACES = [
    # result, as: UNSPECIFIED on a stream, UNSPECIFIED unary, STRUCT on a stream
    (b'{"a":[1,{"b":0.1}]}', "content", "content", "content"),
    (b"{}", "content", "content", "content"),
    (b"[1]", "content_json", "content_json", "content_json"),
    (b"null", "content_json", "content_json", "content_json"),
    (b'"text"', "content_json", "content_json", "content_json"),
    (b'{"a":9007199254740993}', "content_json", "content_json", "content"),
    (b'{"a":1,"a":2}', "content_json", "content_json", "content"),
    (b'{"a":1e999}', "content_json", "content_json", "content_json"),
    (b'{"a":' + b"1" * 5_000 + b"}", "content_json", "content_json", "content_json"),
    (b'{"a":"\\ud800"}', "content_json", "content_json", "content_json"),
    (b'{"a":"\xff"}', "content_json", "content_json", "content_json"),
    (_nested(32), "content", "content", "content"),
    (_nested(33), "content_json", "content_json", "content_json"),
    (_nested(500), "content_json", "content_json", "content_json"),
    (_nested(100_000), "content_json", "content_json", "content_json"),
    (_of_size(MIB - 100), "content", "content", "content"),
    (_of_size(MIB), "content_json", "content_json", "content"),
    (_of_size(MIB + 1), "content_json", "content_json", "content"),
    # 600 kB of JSON, and 3.3 MB as a Struct.
    (NUMBERS, "content_json", "content_json", "content_json"),
    (_of_size(MAX_DEFAULT_CLIENT_BYTES), "content_json", "content_json", "content_json"),
    (_of_size(MAX_DEFAULT_CLIENT_BYTES + 1), "chunks", "nowhere", "chunks"),
    (b'{"a":' + b" " * 4 * MIB + b"1}", "chunks", "nowhere", "content"),
]


@pytest.mark.parametrize(("raw", "streamed", "unary", "as_struct"), PLACES, ids=lambda value: repr(value[:22]))
def test_each_result_is_placed_by_the_rules(raw: bytes, streamed: str, unary: str, as_struct: str) -> None:
    assert _put(raw, UNSPECIFIED)[1] == streamed
    assert _put(raw, UNSPECIFIED, streaming=False)[1] == unary
    assert _put(raw, STRUCT)[1] == as_struct
    assert _put(raw, STRUCT, streaming=False)[1] == as_struct.replace("chunks", "nowhere")
    assert _put(raw, JSON)[1] == "content_json"
    assert _put(raw, CHUNKS)[1] == "chunks"
    assert _put(raw, NONE)[1] == "nowhere"


def test_a_struct_is_measured_encoded_too() -> None:
    raw = _of_size(MAX_AUTOMATIC_STRUCT_BYTES)
    struct = _put(raw, STRUCT)[0].content
    assert len(raw) == MAX_AUTOMATIC_STRUCT_BYTES < struct.ByteSize()
    assert _put(raw, UNSPECIFIED)[1] == "content_json"


@pytest.mark.parametrize("raw", [_nested(32), b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"])
def test_stock_clients_read_the_deepest_struct(raw: bytes) -> None:
    message, where = _put(raw, UNSPECIFIED)
    assert where == "content"
    event = pb.JobEvent(job=message)
    assert pb.JobEvent.FromString(event.SerializeToString()) == event


def test_a_result_over_256_mib_must_be_read_in_chunks() -> None:
    # One byte more than allowed, without the memory for it: only the length of a view counts.
    view = memoryview(b"0").cast("B")
    largest = Result(view, "")
    assert place_result(largest, JSON, streaming=True).placement is Placement.IN_MESSAGE

    class Longer(Result):
        def __len__(self) -> int:
            return MAX_ONE_MESSAGE_BYTES + 1

    with pytest.raises(ResultTooLarge, match=r"268435457 bytes.*CONTENT_FORMAT_JSON_CHUNKS"):
        place_result(Longer(view, ""), JSON, streaming=True)


@pytest.mark.parametrize("content_format", pb.ContentFormat.values())
def test_every_known_format_is_taken_on_a_stream(content_format: int) -> None:
    assert read_format(content_format, streaming=True) == content_format


@pytest.mark.parametrize(
    ("content_format", "streaming", "said"), [(CHUNKS, False, "WatchJob"), (5, True, r"got 5"), (-1, False, "-1")]
)
def test_chunks_need_a_stream_and_unknown_formats_are_invalid(
    content_format: int, *, streaming: bool, said: str
) -> None:
    with pytest.raises(RequestInvalid, match=said) as raised:
        read_format(content_format, streaming=streaming)
    assert raised.value.violations[0].field == "content_format"


@given(json_values, st.booleans())
@example({"a": 2**53 + 1}, True)
@example({"a": "\ud800"}, True)
def test_any_result_arrives_unharmed_by_default(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    message, where = _put(raw, UNSPECIFIED)
    assert where in ("content", "content_json")
    if where == "content":
        # The doubles of the Struct must equal the integers of the upstream in every digit.
        back = json.loads(struct_to_json(message.content), parse_float=_digits_of_double, parse_int=Decimal)
        assert back == json.loads(raw, parse_float=_digits_of_double, parse_int=Decimal)


@given(st.binary(min_size=1), st.sampled_from(pb.ContentFormat.values()), st.booleans())
def test_any_bytes_are_delivered_unchanged_or_left_out(raw: bytes, content_format: int, streaming: bool) -> None:
    message, where = _put(raw, pb.ContentFormat.ValueType(content_format), streaming=streaming)
    assert where in ("content", "content_json", "chunks", "nowhere")
    assert pb.Job.FromString(message.SerializeToString()) == message
