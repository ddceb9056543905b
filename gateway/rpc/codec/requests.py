"""Requests to models: pure functions that validate.

They raise `RequestInvalid` for an invalid field, and `RequestTooLarge` for a job with more than 8 MiB of input.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from google.protobuf import struct_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestInvalid, RequestTooLarge
from gateway.models import SendJob
from gateway.rpc.codec.struct_json import NotJsonError, struct_to_json
from gateway.strict_json import check_json

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration


MAX_WORKSPACE_ID = 200
MAX_NAME = 1_024
MAX_PARAMS_BYTES = 8 << 20
MAX_TIMEOUT_SECONDS = 86_400
MIN_HEARTBEAT_SECONDS = 1
MAX_HEARTBEAT_SECONDS = 3_600
DEFAULT_HEARTBEAT_SECONDS = 15
# The longest Duration, according to its documentation.
MAX_DURATION_SECONDS = 315_576_000_000

_PATH_CHANGERS = re.compile(r"[/\\?#%;\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_REQUEST_ID = re.compile(r"[!-~]{0,128}")


def read_uid(uid: int) -> int:
    """Return the uid of a request: 1 or greater."""
    if uid < 1:
        raise RequestInvalid("uid", f"must be 1 or greater (got {uid})")
    return uid


def read_send_job(request: pb.SendJobRequest) -> SendJob:
    """Return the job to send."""
    _check_workspace_id(request.workspace_id)
    if request.entity_id < 1:
        raise RequestInvalid("entity_id", f"must be 1 or greater (got {request.entity_id})")
    return SendJob(
        workspace_id=request.workspace_id,
        entity_id=request.entity_id,
        poll_result=request.poll_result if request.HasField("poll_result") else None,
        method_name=_name("method_name", request.method_name) if request.HasField("method_name") else None,
        method_type=_name("method_type", request.method_type) if request.HasField("method_type") else None,
        editor_session=_uuid(request.editor_session) if request.HasField("editor_session") else None,
        params=_params(request),
        events=tuple(request.events),
        timeout=_job_timeout(request.timeout) if request.HasField("timeout") else None,
        arguments=_struct("arguments", request.arguments) if request.HasField("arguments") else None,
        method=_name("method", request.method) if request.HasField("method") else None,
    )


def _check_workspace_id(workspace_id: str) -> None:
    if not 1 <= len(workspace_id) <= MAX_WORKSPACE_ID:
        raise RequestInvalid("workspace_id", f"must have 1 to {MAX_WORKSPACE_ID} characters (got {len(workspace_id)})")
    if workspace_id in (".", "..") or _PATH_CHANGERS.search(workspace_id):
        raise RequestInvalid(
            "workspace_id",
            "must not contain / \\ ? # % ; or control characters, nor be . or .., because it is part of a path",
        )


def _name(field: str, value: str) -> str:
    if not 1 <= len(value) <= MAX_NAME:
        raise RequestInvalid(field, f"must have 1 to {MAX_NAME} characters if it is set (got {len(value)})")
    return value


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise RequestInvalid("editor_session", f"must be a UUID: 8-4-4-4-12 hexadecimal digits (got {value[:40]!r})")
    return value


def _params(request: pb.SendJobRequest) -> bytes | None:
    match request.WhichOneof("input"):
        case "params":
            return _struct("params", request.params)
        case "params_json":
            raw = request.params_json
            if len(raw) > MAX_PARAMS_BYTES:
                raise RequestTooLarge(f"params_json has {len(raw)} bytes; send at most {MAX_PARAMS_BYTES}")
            try:
                check_json(raw)
            except ValueError as error:
                raise RequestInvalid("params_json", str(error)) from error
            return raw
        case _:
            return None


def _struct(field: str, struct: struct_pb2.Struct) -> bytes:
    try:
        raw = struct_to_json(struct)
    except NotJsonError as error:
        raise RequestInvalid(f"{field}.{error.path}", str(error)) from error
    if len(raw) > MAX_PARAMS_BYTES:
        raise RequestTooLarge(f"{field} has {len(raw)} bytes as JSON; send at most {MAX_PARAMS_BYTES}")
    return raw


def _job_timeout(duration: Duration) -> int:
    if duration.nanos or not 1 <= duration.seconds <= MAX_TIMEOUT_SECONDS:
        seconds = duration.seconds + duration.nanos / 1e9
        raise RequestInvalid("timeout", f"must be whole seconds from 1 to {MAX_TIMEOUT_SECONDS} (got {seconds:.9g} s)")
    return duration.seconds


def read_request_id(request_id: str) -> str:
    """Return a valid request_id, "" for none."""
    if not _REQUEST_ID.fullmatch(request_id):
        got = f"{len(request_id)}: {request_id[:40]!r}"
        raise RequestInvalid("request_id", f"must have at most 128 characters of visible ASCII (got {got})")
    return request_id


def read_heartbeat_interval(request: pb.WatchJobRequest | pb.RunJobRequest) -> float:
    """Return the heartbeat interval in seconds: 1 to 3600, 15 if it is not set."""
    if not request.HasField("heartbeat_interval"):
        return DEFAULT_HEARTBEAT_SECONDS
    seconds = _seconds("heartbeat_interval", request.heartbeat_interval)
    if not MIN_HEARTBEAT_SECONDS <= seconds <= MAX_HEARTBEAT_SECONDS:
        raise RequestInvalid("heartbeat_interval", f"must be from 1 second to 1 hour (got {seconds:g} s)")
    return seconds


def read_wait_timeout(request: pb.WaitJobRequest) -> float | None:
    """Return the timeout of a wait in seconds, 0 or more, or None if it is not set."""
    if not request.HasField("timeout"):
        return None
    seconds = _seconds("timeout", request.timeout)
    if seconds < 0:
        raise RequestInvalid("timeout", f"must be 0 or more (got {seconds:g} s)")
    return seconds


def _seconds(field: str, duration: Duration) -> float:
    if (
        abs(duration.seconds) > MAX_DURATION_SECONDS
        or abs(duration.nanos) > 999_999_999
        or duration.seconds * duration.nanos < 0
    ):
        raise RequestInvalid(field, "must be a valid Duration")
    return duration.seconds + duration.nanos / 1e9
