"""What an error of the gateway says, and what to do about it (docs/reference/errors.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

RETRY, FIX, LOGIN, LOOK, GIVE_UP = "retry", "fix", "login", "look", "give_up"
_DOMAIN = "jobgateway"

# The reasons that ask for something else than their code does.
_BY_REASON = {
    "UPSTREAM_NOT_READY": RETRY,
    "UPSTREAM_ERROR": RETRY,
    "UPSTREAM_ANSWER_TOO_LARGE": GIVE_UP,
}
_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: RETRY,
    grpc.StatusCode.DEADLINE_EXCEEDED: RETRY,
    grpc.StatusCode.CANCELLED: RETRY,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FIX,
    grpc.StatusCode.INVALID_ARGUMENT: FIX,
    grpc.StatusCode.NOT_FOUND: FIX,
    grpc.StatusCode.OUT_OF_RANGE: FIX,
    grpc.StatusCode.UNAUTHENTICATED: LOGIN,
    grpc.StatusCode.UNKNOWN: LOOK,
}
# Without our `ErrorInfo` these come from a proxy or a gateway that died; another call may work.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True)
class Failure:
    """Why a call failed.

    `reason` is that of the `ErrorInfo` of the domain `jobgateway`, empty if the error is not the gateway's;
    `retry_after` is in seconds, None if no wait is known; `fields` has what is wrong with each field at fault.
    """

    code: grpc.StatusCode
    reason: str = ""
    retry_after: float | None = None
    fields: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """Reads the error of a call, sync or asyncio."""
        reason, retry_after, fields = "", None, {}
        try:
            status = rpc_status.from_call(cast("grpc.Call", error))  # which it is
            for detail in status.details if status else ():
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    info = error_details_pb2.ErrorInfo.FromString(detail.value)
                    reason = info.reason if info.domain == _DOMAIN else reason
                elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                    wait = error_details_pb2.RetryInfo.FromString(detail.value)
                    retry_after = wait.retry_delay.ToTimedelta().total_seconds()
                elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                    bad = error_details_pb2.BadRequest.FromString(detail.value)
                    fields = {each.field: each.description for each in bad.field_violations}
        except (ValueError, DecodeError):
            return cls(error.code())  # details that contradict the status are not the gateway's
        return cls(error.code(), reason, retry_after, fields)

    @property
    def action(self) -> str:
        """What to do about it: by the reason if its code would say otherwise, else by the code.

        `RETRY` of a submission is safe only with a `request_id`: without one, `RETRY` of an error that has no `reason`
        means `LOOK`.
        """
        if self.reason in _BY_REASON:
            return _BY_REASON[self.reason]
        # A limit of rate or load says when to come back; a limit of size does not.
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and self.retry_after is not None:
            return RETRY
        if not self.reason and self.code in _BROKEN:
            return RETRY
        return _BY_CODE.get(self.code, GIVE_UP)
