"""The parts of a call that the sync and the asyncio client share: requests, metadata, time limits, options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError
from jobgateway_client.rules import Retry

OnRetry: TypeAlias = Callable[[Retry], None]
"""Is called before each further attempt, before its wait. If it raises, that error ends the call."""

OnProgress: TypeAlias = Callable[[pb.Job], None]
"""Is called with each state of the job."""

OnReplayed: TypeAlias = Callable[[], None]
"""Is called if a response repeats an earlier submission with the same `request_id`, so that no second job was made."""

Options: TypeAlias = Sequence[tuple[str, int | str]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

# The gateway gives up a read after 10 silent seconds, and a submission after 120.
_READ_SECONDS = 30.0
_SEND_SECONDS = 150.0
# Of a WaitJob without a timeout.
_WAIT_SECONDS = 40.0
_LEAST_WAIT_SECONDS = 1.0

END_SECONDS = 5.0
"""The longest time to wait for the status of a stream whose job has ended."""


@dataclass(frozen=True)
class Finished:
    """A job that has ended, and the JSON of its result (empty if there is none, or if it was not requested)."""

    job: pb.Job
    result: bytes

    @property
    def succeeded(self) -> bool:
        """True if the job succeeded."""
        return self.job.status == pb.JOB_STATUS_SUCCESS


def channel_options(service_config: str | None, options: Options) -> list[tuple[str, int | str]]:
    """Return the options of a channel; `options` replace the others."""
    own: list[tuple[str, int | str]] = [
        *([] if service_config is None else [("grpc.service_config", service_config)]),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Without it, a ping may go unanswered for a minute, regardless of the timeout above.
        ("grpc.http2.ping_timeout_ms", 10_000),
        # A watch sends nothing for hours, and pings would end after two without data.
        ("grpc.http2.max_pings_without_data", 0),
        # Otherwise channels share connections, and a new one leads back to the instance that drains.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return list((dict(own) | dict(options)).items())


def metadata(token: str | None, request: object) -> Metadata:
    """Return the metadata of a call. Proxies can route by `x-job-uid`."""
    found = [] if token is None else [("authorization", f"Bearer {token}")]
    if isinstance(request, pb.GetJobRequest | pb.WaitJobRequest | pb.CancelJobRequest | pb.WatchJobRequest):
        found.append(("x-job-uid", str(request.uid)))
    return tuple(found)


def is_replayed(trailers: Any) -> bool:
    """Return True if the trailers of a response say that it repeats an earlier submission."""
    return any(key == "jobgateway-replayed" and value == "true" for key, value in trailers or ())


def tell_replayed(trailers: Any, on_replayed: OnReplayed | None) -> None:
    """Call `on_replayed` if there is one and the trailers say that the response is a repetition."""
    if on_replayed is not None and is_replayed(trailers):
        on_replayed()


def checked_token(token: str | None) -> str | None:
    """Return a token that metadata can carry.

    Raises:
        ValueError: The token has other characters. The text does not contain them.

    """
    if token is not None and not (token and all("!" <= character <= "~" for character in token)):
        raise ValueError("token: empty, or has a character other than visible ASCII; pass it without white space")
    return token


def call_seconds(request: object) -> float:
    """Return the time limit of one unary call in seconds, after which its connection counts as dead."""
    if isinstance(request, pb.SendJobRequest):
        return _SEND_SECONDS
    if isinstance(request, pb.WaitJobRequest):
        timeout = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else _WAIT_SECONDS
        return timeout + _READ_SECONDS
    return _READ_SECONDS


def is_waited_for(job: pb.Job, request: pb.WaitJobRequest, deadline: Deadline) -> bool:
    """Return True if no further `WaitJob` is needed."""
    left = deadline.left()
    # Just before its deadline, a call returns immediately, and another one would only load the gateway.
    return job.done or request.HasField("timeout") or (left is not None and left < _LEAST_WAIT_SECONDS)


def run_request(request: pb.RunJobRequest | pb.SendJobRequest) -> pb.RunJobRequest:
    """Return the request for a job that is sent and watched."""
    return request if isinstance(request, pb.RunJobRequest) else pb.RunJobRequest(request=request)


def watch_request(uid: int | pb.WatchJobRequest) -> pb.WatchJobRequest:
    """Return the request for a watch."""
    return uid if isinstance(uid, pb.WatchJobRequest) else pb.WatchJobRequest(uid=uid)


def check_time(retry: Retry, deadline: Deadline) -> None:
    """Check that the wait of an attempt ends before the deadline.

    Raises:
        GatewayError: It does not.

    """
    left = deadline.left()
    if left is not None and retry.wait >= left:
        message = f"{retry.error.message}, and no time is left for another attempt"
        raise GatewayError(grpc.StatusCode.DEADLINE_EXCEEDED, message, metadata=retry.error.metadata)


def closed_error() -> GatewayError:
    """Return the error of a call over a client that was closed."""
    return GatewayError(grpc.StatusCode.CANCELLED, "the client was closed")


Stub: TypeAlias = Any
"""A `JobServiceStub`; the sync and the asyncio one differ in their types."""
