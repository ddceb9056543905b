"""What an error of the gateway says, and what to do about it (docs/errors.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

RETRY, MEND, LOGIN, LOOK, GIVE_UP = "retry", "mend", "login", "look", "give_up"

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
    grpc.StatusCode.RESOURCE_EXHAUSTED: MEND,
    grpc.StatusCode.INVALID_ARGUMENT: MEND,
    grpc.StatusCode.NOT_FOUND: MEND,
    grpc.StatusCode.OUT_OF_RANGE: MEND,
    grpc.StatusCode.UNAUTHENTICATED: LOGIN,
    grpc.StatusCode.UNKNOWN: LOOK,
}


@dataclass(frozen=True)
class Failure:
    """Why a call failed.

    `reason` is that of the `ErrorInfo`, empty where the gateway did not say; `retry_after` is in seconds, None where
    no wait is known; `fields` has what is wrong with each field at fault.
    """

    code: grpc.StatusCode
    reason: str = ""
    retry_after: float | None = None
    fields: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """Reads the error of a call, sync or asyncio."""
        reason, retry_after, fields = "", None, {}
        status = rpc_status.from_call(cast("grpc.Call", error))  # which it is
        for detail in status.details if status else ():
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                reason = info.reason
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                wait = error_details_pb2.RetryInfo()
                detail.Unpack(wait)
                retry_after = wait.retry_delay.ToTimedelta().total_seconds()
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                fields = {each.field: each.description for each in bad.field_violations}
        return cls(error.code(), reason, retry_after, fields)

    @property
    def action(self) -> str:
        """What to do about it: by the reason where its code would say otherwise, else by the code."""
        if self.reason in _BY_REASON:
            return _BY_REASON[self.reason]
        # A limit of rate or load says when to come back; a limit of size does not.
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and self.retry_after is not None:
            return RETRY
        return _BY_CODE.get(self.code, GIVE_UP)
