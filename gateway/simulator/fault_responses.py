"""The HTTP responses of faults, complete and partial."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from http import HTTPStatus

import msgspec

from gateway.simulator.faults import Fault

_JSON = "application/json"
_PAGE = b"""<html>
<head><title>502 Bad Gateway</title></head>
<body>
<center><h1>502 Bad Gateway</h1></center>
</body>
</html>
"""
_BOMB_SIZE = 200_000_000
_BOMB_BLOCK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class FaultResponse:
    """An HTTP response: status, headers without Content-Length, body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": _JSON})
    body: bytes = b""


def fault_response(fault: Fault, *, uid: int, success: int, elsewhere: str) -> FaultResponse:
    """Return the response of a fault.

    Args:
        fault: a fault that has a complete response, so no `WireKind`.
        uid: uid of the requested job, 0 if the request concerns none.
        success: the HTTP status of the response without the fault.
        elsewhere: the URL to which the fault `redirect` points.

    """
    if isinstance(fault.kind, int):
        response = _status_response(fault.kind, bytes(fault.body))
    elif fault.kind == "html":
        response = FaultResponse(status=502, headers={"Content-Type": "text/html"}, body=_PAGE)
    elif fault.kind == "redirect":
        response = FaultResponse(status=302, headers={"Location": elsewhere})
    elif fault.kind == "gzip_bomb":
        headers = {"Content-Type": _JSON, "Content-Encoding": "gzip"}
        response = FaultResponse(status=success, headers=headers, body=_bomb())
    else:
        response = FaultResponse(status=success, body=_bodies(uid)[fault.kind])
    headers = {**response.headers, **_retry_after(fault), **fault.headers}
    return FaultResponse(status=response.status, headers=headers, body=response.body)


def running_job(uid: int) -> bytes:
    """Return the JSON of a running job, of which a fault may send a part."""
    message = {"message_type": "progress", "message": "Half-way", "timestamp_epoch": None, "percentage": 50}
    return msgspec.json.encode({"uid": uid, "kind": "result", "status": "running", "message": message})


def _bodies(uid: int) -> dict[str, bytes]:
    job = running_job(uid)
    ended = {"status": "success", "result": {"data": {"sum": 0}}, "completed_at": "2026-01-01T00:00:00Z"}
    return {
        "not_json": b"OK, all is well.",
        "list": b"[" + job + b"]",
        "null": b"null",
        "truncated": job[: len(job) // 2],
        "other_uid": msgspec.json.encode({"uid": uid + 1_000_000, "kind": "result", **ended}),
        "no_uid": msgspec.json.encode({"kind": "result", "status": "running"}),
        "empty": b"",
    }


def _status_response(status: int, body: bytes) -> FaultResponse:
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return FaultResponse(status=status, headers={})
    if not body and status == HTTPStatus.BAD_REQUEST:
        body = b'{"method_name":["This value is not accepted."],"non_field_errors":["The job is refused."]}'
    return FaultResponse(status=status, body=body or msgspec.json.encode({"detail": _phrase(status)}))


def _phrase(status: int) -> str:
    known = status in HTTPStatus.__members__.values()
    return f"{HTTPStatus(status).phrase}." if known else f"Status {status}."


def _retry_after(fault: Fault) -> dict[str, str]:
    if fault.retry_after is None:
        return {}
    delay = fault.retry_delay()
    text = str(fault.retry_after) if delay is None else formatdate(time.time() + delay, usegmt=True)
    return {"Retry-After": text}


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(b'{"uid":1,"padding":"')]
    parts += [packer.compress(b"x" * _BOMB_BLOCK) for _ in range(_BOMB_SIZE // _BOMB_BLOCK)]
    return b"".join([*parts, packer.compress(b'"}'), packer.flush()])
