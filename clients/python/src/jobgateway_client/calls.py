"""The parts of a call that the sync and the asyncio client share: requests, metadata, time limits, options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import ClosedError, GatewayError
from jobgateway_client.rules import Retry
from jobgateway_client.tls import Tls
from jobgateway_client.version import __version__

OnRetry: TypeAlias = Callable[[Retry], None]
"""Is called before each further attempt, before its wait. If it raises, that error ends the call."""

OnProgress: TypeAlias = Callable[[pb.Job], None]
"""Is called with each state of the job."""

OnReplayed: TypeAlias = Callable[[], None]
"""Is called if a response repeats an earlier submission with the same `request_id`, so that no second job was made."""

OnClose: TypeAlias = Callable[[], None]
Options: TypeAlias = Sequence[tuple[str, int | str]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

# The gateway gives up a read after 10 silent seconds, and a submission after 120.
_READ_SECONDS = 30.0
_SEND_SECONDS = 150.0
# Of a WaitJob without a timeout.
_WAIT_SECONDS = 40.0
_LEAST_WAIT_SECONDS = 1.0
# The gateway rejects a longer timeout of a WaitJob.
_LONGEST_WAIT_SECONDS = 86_400.0

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


def checked_target(target: str) -> str:
    """Return the address of a gateway.

    Raises:
        ValueError: gRPC would report the address only with the first call, and as an unreachable one.

    """
    has_scheme = target.lower().startswith(("http://", "https://"))
    if not target or has_scheme or any(character.isspace() for character in target):
        raise ValueError(f"target: must be HOST:PORT, without a scheme and white space (got {target!r})")
    return target


def channel_options(service_config: str | None, options: Options) -> list[tuple[str, int | str]]:
    """Return the options of a channel; `options` replace the others.

    Raises:
        ValueError: The service config is not a JSON object.

    """
    if service_config is not None and not _is_json_object(service_config):
        raise ValueError("service_config: must be a JSON object")
    own: list[tuple[str, int | str]] = [
        *([] if service_config is None else [("grpc.service_config", service_config)]),
        ("grpc.primary_user_agent", f"jobgateway-python/{__version__}"),
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


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def metadata(token: str | None, request: object) -> Metadata:
    """Return the metadata of a call. Proxies can route by `x-job-uid`."""
    found = [] if token is None else [("authorization", f"Bearer {token}")]
    if isinstance(request, pb.GetJobRequest | pb.WaitJobRequest | pb.CancelJobRequest | pb.WatchJobRequest):
        found.append(("x-job-uid", str(request.uid)))
    return tuple(found)


def is_replayed(trailers: Any) -> bool:
    """Return True if the trailers of a response say that it repeats an earlier submission."""
    return any(key == "jobgateway-replayed" and value == "true" for key, value in trailers or ())


def report_replayed(trailers: Any, on_replayed: OnReplayed | None) -> None:
    """Call `on_replayed` if there is one and the trailers say that the response is a repetition."""
    if on_replayed is not None and is_replayed(trailers):
        on_replayed()


def checked_token(token: str | None) -> str | None:
    """Return a token that metadata can carry.

    Raises:
        TypeError: It is no text.
        ValueError: It has a character other than visible ASCII. The error does not contain the token.

    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise TypeError(f"the token is not a str (got {type(token).__name__})")
    if not token:
        raise ValueError("the token is empty: pass None if there is none")
    if not all("!" <= character <= "~" for character in token):
        raise ValueError(
            "the token has a line break or another character that no header can carry: remove white space at its ends"
        )
    return token


def call_seconds(request: object) -> float:
    """Return the time limit of one unary call in seconds, after which its connection counts as dead."""
    if isinstance(request, pb.SendJobRequest):
        return _SEND_SECONDS
    if isinstance(request, pb.WaitJobRequest):
        return (_wait_seconds(request) if request.HasField("timeout") else _WAIT_SECONDS) + _READ_SECONDS
    return _READ_SECONDS


def next_request(request: Any, deadline: Deadline) -> Any:
    """Return the request of the next attempt: that of a wait has the rest of its timeout."""
    left = deadline.left()
    if not isinstance(request, pb.WaitJobRequest) or not request.HasField("timeout") or left is None:
        return request
    if not 0 < _timeout(request) <= _LONGEST_WAIT_SECONDS:
        # Zero reads once, and the gateway rejects the others.
        return request
    again = pb.WaitJobRequest()
    again.CopyFrom(request)
    again.timeout.FromNanoseconds(int(min(left, _timeout(request)) * 1e9))
    return again


def _wait_seconds(request: pb.WaitJobRequest) -> float:
    return min(max(_timeout(request), 0.0), _LONGEST_WAIT_SECONDS)


def _timeout(request: pb.WaitJobRequest) -> float:
    return request.timeout.seconds + request.timeout.nanos / 1e9


def wait_is_over(job: pb.Job, request: pb.WaitJobRequest, deadline: Deadline) -> bool:
    """Return True if no further `WaitJob` is needed."""
    left = deadline.left()
    # Just before its deadline, a call returns immediately, and another one would only load the gateway.
    return job.done or request.HasField("timeout") or (left is not None and left < _LEAST_WAIT_SECONDS)


def send_request(request: pb.SendJobRequest) -> pb.SendJobRequest:
    """Return the request for a job that is sent.

    Raises:
        TypeError: It is another object. gRPC would send another message as if it were this one.

    """
    if not isinstance(request, pb.SendJobRequest):
        raise TypeError(f"the request is not a SendJobRequest (got {type(request).__name__})")
    return request


def check_callbacks(*callbacks: Callable[..., None] | None) -> None:
    """Check that calls can use some callbacks.

    Raises:
        TypeError: One is a coroutine function, which no one would await.

    """
    for callback in callbacks:
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"the callback {callback.__name__} is a coroutine function: use a plain one")


def is_deadline(error: GatewayError) -> bool:
    """Return True if a call was ended by the deadline of the caller, and nothing else had failed."""
    return error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.from_gateway and error.__cause__ is None


def run_request(request: pb.RunJobRequest | pb.SendJobRequest) -> pb.RunJobRequest:
    """Return the request for a job that is sent and watched.

    Raises:
        TypeError: The request is another object.
        ValueError: It has `cancel_on_disconnect`.

    """
    if not isinstance(request, pb.RunJobRequest):
        return pb.RunJobRequest(request=send_request(request))
    if request.cancel_on_disconnect:
        raise ValueError(
            "cancel_on_disconnect: a broken connection would cancel the job, but this client resumes; "
            "leave it unset, and call cancel()"
        )
    return request


def watch_request(uid: int | pb.WatchJobRequest) -> pb.WatchJobRequest:
    """Return the request for a watch.

    Raises:
        TypeError: It is another object.

    """
    return uid if isinstance(uid, pb.WatchJobRequest) else pb.WatchJobRequest(uid=uid)


def channel_credentials(tls: Tls | grpc.ChannelCredentials | None) -> grpc.ChannelCredentials | None:
    """Return the credentials of a channel, or None for plaintext."""
    return tls.credentials() if isinstance(tls, Tls) else tls


def nothing() -> None:
    """Do nothing."""


def wait_deadline(request: pb.WaitJobRequest, timeout: float | None) -> Deadline:
    """Return the time limit of all attempts of a wait: the shorter of `timeout` and that of the request."""
    if not request.HasField("timeout"):
        return Deadline(timeout)
    seconds = _wait_seconds(request)
    if timeout is None:
        return Deadline(seconds, grace=_READ_SECONDS)
    return Deadline(min(seconds, timeout), grace=min(max(timeout - seconds, 0.0), _READ_SECONDS))


def closed_error() -> ClosedError:
    """Return the error of a call over a client that was closed."""
    return ClosedError("the client was closed")


def left_error() -> ClosedError:
    """Return the error of a watch that was closed or interrupted before its end."""
    return ClosedError("the watch was closed")


Stub: TypeAlias = Any
"""A `JobServiceStub`; the sync and the asyncio one differ in their types."""
