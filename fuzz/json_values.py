"""JSON of clients and results, compared with Python's own reader.

Accepted `params_json` is JSON to every reader and arrives byte for byte. A `Struct` is exact or not made at all. The
scanner finds the same end of a value as Python's reader.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestError
from gateway.rpc.codec.requests import read_send_job
from gateway.rpc.codec.struct_json import NotExactError, NotJsonError, encode_struct, struct_to_json
from gateway.upstream.client import send_body
from gateway.upstream.json import _end_of_deep, end_of

MAX_DEPTH = 32
MAX_BYTES = 4_000


def check(data: bytes) -> None:
    """Read one text in every way."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse, parse_int=_number, parse_float=_number)
        is_json = True
    except (ValueError, RecursionError):
        value, is_json = None, False
    _check_params(data, value, is_json=is_json)
    _check_struct(data, value, is_json=is_json)
    _check_scanner(data.decode("latin-1"))


def _number(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except ArithmeticError:
        # A number with an exponent beyond the limits of Decimal.
        return text


def _refuse(name: str) -> None:
    raise ValueError(name)


def _check_params(data: bytes, value: Any, *, is_json: bool) -> None:
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=data)
    try:
        job = read_send_job(request)
    except RequestError as error:
        # Repeated keys and deep nesting are rejected, although Python's reader accepts them.
        assert not is_json or "twice" in str(error) or "deep" in str(error), str(error)
        return
    assert is_json
    body = send_body(job)
    assert b'"params":' + data in body
    assert json.loads(body.decode(), parse_int=_number, parse_float=_number) == {"params": value}


def _check_struct(data: bytes, value: Any, *, is_json: bool) -> None:
    try:
        encoded = encode_struct(data, max_depth=MAX_DEPTH, max_bytes=MAX_BYTES, rounded=False)
    except NotExactError:
        return
    assert is_json
    assert len(encoded) <= MAX_BYTES
    again = Struct.FromString(encoded)
    assert _same(MessageToDict(again), value)
    try:
        assert _same(json.loads(struct_to_json(again)), value)
    except NotJsonError as error:
        raise AssertionError("a Struct that was made of JSON is JSON") from error


def _same(one: Any, exact: Any) -> bool:
    if isinstance(exact, Decimal):
        # The double has this value, or is written with these digits.
        is_number = isinstance(one, int | float) and not isinstance(one, bool)
        return is_number and exact in (Decimal(one), Decimal(repr(one)))
    if isinstance(exact, dict):
        return (
            isinstance(one, dict)
            and one.keys() == exact.keys()
            and all(_same(one[each], exact[each]) for each in exact)
        )
    if isinstance(exact, list):
        return isinstance(one, list) and len(one) == len(exact) and all(map(_same, one, exact))
    return type(one) is type(exact) and bool(one == exact)


def _check_scanner(text: str) -> None:
    ends = []
    for scan in (end_of, _end_of_deep):
        try:
            ends.append(scan(text, 0))
        except (ValueError, IndexError):
            ends.append(-1)
    # The scanner of deep values skips leading white space, which its callers have skipped already.
    assert ends[0] == ends[1] or text[:1] in " \t\r\n", ends
