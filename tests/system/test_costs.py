"""The cost of reading untrusted bytes is linear: four times the bytes take about four times as long.

Each reader reads each shape in two sizes. The smaller one takes some milliseconds, or has 256 KiB. A quadratic reader
takes sixteen times as long for the larger one; the limit is nine times. The tests measure CPU time, so that the load
of the machine does not matter. They repeat the measurement only if the limit is exceeded, and compare the minima.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.struct_pb2 import Struct
from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential, read_credential
from gateway.errors import GatewayError, UpstreamStatusError
from gateway.models import SendJob
from gateway.rpc.codec.events import JobState, chunk_events, encode_job
from gateway.rpc.codec.requests import read_send_job
from gateway.rpc.codec.resume_token import read_token
from gateway.rpc.codec.struct_json import NotExactError, encode_struct
from gateway.rpc.codec.text import clean, clean_detail
from gateway.rpc.status import to_rpc_error
from gateway.strict_json import check_json
from gateway.submit.fingerprint import fingerprint_of
from gateway.telemetry.unknown_statuses import UnknownStatuses
from gateway.upstream.compression import NotDecodable, decoded
from gateway.upstream.errors import read_error, read_retry_after
from gateway.upstream.jobs import JOB_FIELDS, read_job, read_sent_job, uid_in_location
from gateway.upstream.json import read_members, read_report
from tests.support.transports import http_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.slow

# The smaller size: at first, and at most for quick readers.
SMALL, MOST = 16 << 10, 256 << 10
TIMES = 4
# A quadratic reader needs 16 times as long.
MOST_TIMES = 9
# The smaller size grows until it takes TELLING_SECONDS. Less than ALLOWANCE_SECONDS over the limit is noise.
TELLING_SECONDS = 0.002
ALLOWANCE_SECONDS = 0.002
MOST_MEASUREMENTS = 12

CREDENTIAL = Credential("vktrpat_a-secret-of-some-length")
FORMATS = tuple(pb.ContentFormat.values())


def repeated(unit: bytes, head: bytes = b"", tail: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: head + unit * (size // len(unit)) + tail


def nested(opening: bytes, closing: bytes, head: bytes = b"", tail: bytes = b"") -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        depth = size // len(opening + closing)
        return head + opening * depth + b"1" + closing * depth + tail

    return make


def numbered(member: bytes, head: bytes = b"{", tail: bytes = b"}") -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        return head + b",".join(member % number for number in range(size // (len(member) + 4))) + tail

    return make


def long_key(inner: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda size: b'{"%b":%b}' % (b"k" * (size // 2), inner(size // 2))


RESULT, ERROR = b'{"status":"success","result":', b'{"status":"failed","error":{"invalid_fields":'

SHAPES: dict[str, Callable[[int], bytes]] = {
    "opening brackets": repeated(b"["),
    "closing brackets": repeated(b"]"),
    "opening braces": repeated(b'{"a":'),
    "both in turn": repeated(b'[{"a":'),
    "broken off within values": repeated(b"[1,"),
    "lists in lists": nested(b"[", b"]"),
    "objects in objects": nested(b'{"a":', b"}"),
    "a deep result": nested(b"[1,", b"]", RESULT + b"[", b"]}"),
    "a deep object as result": nested(b'{"":', b"}", RESULT, b"}"),
    "a deep error": nested(b"[", b"]", ERROR, b"}}"),
    "many members": numbered(b'"%d":[1]'),
    "many members, one after another deep": numbered(b'"%d":' + b"[" * 300 + b"]" * 300),
    "members of NaN": numbered(b'"%d":NaN', b'{"status":"success",'),
    "a name again and again": repeated(b'"a":NaN,', b"{", b'"status":"success"}'),
    "a result again and again": repeated(b'"result":[NaN],', b"{", b'"status":"success"}'),
    "escapes": repeated(b"\\u0041", b'{"status":"', b'"}'),
    "lone surrogates": repeated(b"\\ud800", b'{"status":"failed","error":{"message":"', b'"}}'),
    "lone surrogates, broken off": repeated(b"\\ud800", b'{"detail":"'),
    "backslashes": repeated(b"\\\\", b'{"detail":"'),
    "escaped quotes": repeated(b'\\"', b'{"detail":"'),
    "quotes": repeated(b'"'),
    "digits": repeated(b"9", b'{"status":"failed","uid":', b"}"),
    "digits of a fraction": repeated(b"3", RESULT + b'{"a":0.', b"}}"),
    "integers of 4,299 digits": repeated(b"9" * 4_299 + b",", RESULT + b"[", b"1]}"),
    "small numbers": repeated(b"1e-300,", RESULT + b'{"a":[', b"1]}}"),
    "numbers with many digits": repeated(b"123456789012345678e-290,", RESULT + b'{"a":[', b"1]}}"),
    "exponents of three digits": repeated(b"1e308,", b'{"a":[', b"1]}"),
    "exponents of four digits": repeated(b"1e4200,", b'{"a":[', b"1]}"),
    "exponents of many digits": repeated(b"1e" + b"9" * 300 + b",", b'{"a":[', b"1]}"),
    "results of NaN": repeated(b"NaN,", RESULT + b"[", b"1]}"),
    "errors of NaN": repeated(b"-Infinity,", ERROR + b"[", b"1]}}"),
    "empty lists in an error": repeated(b"[],", ERROR + b"[", b"1]}}"),
    "small objects in an error": repeated(b'{"":0},', ERROR + b"[", b"1]}}"),
    "small objects in a result": repeated(b'{"":0},', RESULT + b'{"a":[', b"1]}}"),
    "blanks before": repeated(b" ", b"", b'{"status":"success"}'),
    "blanks within": repeated(b" \n", b'{"a":NaN,', b'"status":"success"}'),
    "fields": numbered(b'"%d":"no"'),
    "fields of fields": numbered(b'"%d":{"a":["no"]}'),
    "a long key over fields": long_key(numbered(b'"%d":"no"')),
    "a long key over lists": long_key(repeated(b"[],", b"[", b'{"a":1}]')),
    "a list of texts": repeated(b'"x",', b'{"a":[', b'"x"]}'),
    "controls": repeated(b"\\u0001a", b'{"detail":"', b'"}'),
    "wide characters": repeated("é".encode(), b'{"detail":"', b'"}'),
    "invalid UTF-8": repeated(b"\xff", b'{"detail":"', b'"}'),
    "all but a secret": repeated(b"vktrpat_a-secret-of-some-lengt", b'{"detail":"', b'"}'),
    "a secret": repeated(b"vktrpat_a-secret-of-some-length ", b'{"detail":"', b'"}'),
    "a page": repeated(b"<p>", b"<html>"),
    "zeros": repeated(b"\0"),
    "UTF-16": lambda size: ('{"detail":"%s"}' % ("x" * (size // 2))).encode("utf-16"),
    "slashes": repeated(b"/", b'{"uid":"x","url":"', b'"}'),
    "encoded slashes": repeated(b"%2F1", b'{"url":"', b'"}'),
    "colons": repeated(b":"),
    "commas": repeated(b",", b"["),
    "spaces and commas": repeated(b" , "),
    "words": repeated(b"A-b ", b'{"status":"', b'"}'),
    "dates": repeated(b"Thu, 01 Jan 1970 00:20:00 GMT "),
    "bearers": repeated(b"bearer "),
    "empty members of gzip": repeated(gzip.compress(b"")),
    "zeros in gzip": lambda size: gzip.compress(bytes(size * 50)),
}


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _job(raw: bytes) -> None:
    state = JobState(read_job(raw, uid=42, observe_time=0.0))
    state.event(FORMATS[0], encode_job(state.job, FORMATS[0], streaming=True), 0)
    for content_format in FORMATS:
        encode_job(state.job, content_format, streaming=True)
    if state.job.result is not None:
        for _ in chunk_events(42, state.job.result, state.digest, 0):
            pass


def _sent_job(raw: bytes) -> None:
    read_sent_job(raw, observe_time=0.0, location=_text(raw), may_have_ended=True)


def _refusal(raw: bytes) -> None:
    to_rpc_error(read_error(http_response(400, raw), 0.0, CREDENTIAL.redact), 42)


def _outage(raw: bytes) -> None:
    to_rpc_error(read_error(http_response(503, raw, retry_after=_text(raw)), 0.0, CREDENTIAL.redact), 42)


def _status(raw: bytes) -> None:
    text = _text(raw)
    clean(text, 400)
    clean_detail(text, 400)
    to_rpc_error(UpstreamStatusError(400, text), 42)
    UnknownStatuses(lambda: None).unknown_status(text)


def _params(raw: bytes) -> None:
    read_send_job(pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=raw))


def _fingerprint(raw: bytes) -> None:
    check_json(raw)
    fingerprint_of(SendJob(workspace_id="1", entity_id=7, params=raw))


def _struct(raw: bytes) -> None:
    encoded = encode_struct(raw, max_depth=30, max_bytes=1 << 20, rounded=True)
    read_send_job(pb.SendJobRequest(workspace_id="1", entity_id=7, params=Struct.FromString(encoded)))


def _body(raw: bytes) -> None:
    async def read() -> None:
        async for _ in decoded(pieces(), "gzip"):
            pass

    async def pieces() -> AsyncIterator[bytes]:
        yield raw

    asyncio.run(read())


READERS: dict[str, Callable[[bytes], Any]] = {
    "job": _job,
    "sent job": _sent_job,
    "members": lambda raw: read_members(raw, JOB_FIELDS),
    "report": read_report,
    "refusal": _refusal,
    "outage": _outage,
    "retry-after": lambda raw: read_retry_after(_text(raw), 0.0),
    "location": lambda raw: uid_in_location(_text(raw)),
    "texts of errors": _status,
    "redaction": lambda raw: CREDENTIAL.redact(_text(raw)),
    "resume token": lambda raw: read_token(_text(raw)),
    "credential": lambda raw: read_credential([_text(raw)]),
    "params_json": _params,
    "fingerprint": _fingerprint,
    "struct": _struct,
    "compressed body": _body,
}
REFUSALS = (GatewayError, ValueError, NotExactError, NotDecodable)


@lru_cache(maxsize=4)
def _body_of(shape: str, size: int) -> bytes:
    return SHAPES[shape](size)


@pytest.fixture(autouse=True, scope="module")
def _without_collections() -> Iterator[None]:
    # A collection takes time for all objects in memory, so those of other tests are frozen.
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def _seconds(read: Callable[[bytes], Any], raw: bytes) -> float:
    began = time.thread_time()
    with suppress(*REFUSALS):
        read(raw)
    return time.thread_time() - began


def _check(read: Callable[[bytes], Any], shape: str) -> None:
    size = SMALL
    # One quick measurement is enough to grow: a slow one may be noise, and the step to a cut body is no slope.
    while size < MOST and any(
        _seconds(read, _body_of(shape, size)) < TELLING_SECONDS for _ in range(MOST_MEASUREMENTS)
    ):
        size *= TIMES
    small, large = _body_of(shape, size), _body_of(shape, size * TIMES)
    of_small = of_large = float("inf")
    for _ in range(MOST_MEASUREMENTS):
        of_small = min(of_small, _seconds(read, small))
        of_large = min(of_large, _seconds(read, large))
        if of_large <= MOST_TIMES * of_small + ALLOWANCE_SECONDS:
            return
    pytest.fail(f"{of_small:.6f} s for {len(small)} bytes, {of_large:.6f} s for {len(large)}")


# The readers of one shape run one after another, so that the cache builds it once.
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_bytes_cost_about_four_times_the_time(shape: str, reader: str) -> None:
    _check(READERS[reader], shape)


@pytest.mark.parametrize("step", [8, 64, 256])
def test_the_measurement_detects_a_quadratic_reader(step: int) -> None:
    def quadratic(raw: bytes) -> None:
        for start in range(0, len(raw), step):
            raw.find(b"x", start)

    with pytest.raises(pytest.fail.Exception):
        _check(quadratic, "zeros")
