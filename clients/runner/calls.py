"""The calls of a client with their times, read from the HTTP/2 frames between the client and the gateway."""

from __future__ import annotations

import base64
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from hpack import Decoder
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner import frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

JOB_UID: Final = "x-job-uid"
"""The metadata by which proxies can route the calls about one job."""

_Request: TypeAlias = pb.GetJobRequest | pb.WaitJobRequest | pb.CancelJobRequest | pb.WatchJobRequest
_ABOUT_A_JOB: Final[dict[str, type[_Request]]] = {
    "GetJob": pb.GetJobRequest,
    "WaitJob": pb.WaitJobRequest,
    "CancelJob": pb.CancelJobRequest,
    "WatchJob": pb.WatchJobRequest,
}
# gRPC libraries number their own repetitions of a call with it.
_REPETITION: Final = "grpc-previous-rpc-attempts"
# The compression flag and the length of a gRPC message.
_PREFIX_BYTES: Final = 5
_OK: Final[int] = grpc.StatusCode.OK.value[0]
_UNAUTHENTICATED: Final[int] = grpc.StatusCode.UNAUTHENTICATED.value[0]
_UNAVAILABLE: Final[int] = grpc.StatusCode.UNAVAILABLE.value[0]
_RESOURCE_EXHAUSTED: Final[int] = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


@dataclass
class Lifetime:
    """The lifetime of a connection of a client, on the monotonic clock; `closed` is None while it is open."""

    number: int
    opened: float
    closed: float | None = None

    def is_open(self, now: float) -> bool:
        """Return whether the connection was open at a time."""
        return self.opened <= now and (self.closed is None or self.closed > now)


@dataclass(frozen=True)
class End:
    """The end of a call, as the client learns it.

    Attributes:
        time: The time before the proxy passed it on, on the monotonic clock.
        code: The gRPC status; None if the connection or the stream broke without one.
        reason: The reason in the gateway's `ErrorInfo`, empty if there is none.
        retry_seconds: The wait in the gateway's `RetryInfo`.
        by_client: The client cancelled the call, or closed its connection.

    """

    time: float
    code: int | None = None
    reason: str = ""
    retry_seconds: float = 0.0
    by_client: bool = False


@dataclass
class Call:
    """A call of a client.

    Attributes:
        method: The method.
        uid: The uid in its request, empty if the method has none.
        routed_by: Its `x-job-uid` headers.
        request_id: The `request_id` in its request, empty if it has none.
        timeout_seconds: The `timeout` in its request; None if it has none.
        connection: The number of its connection.
        start: The time at which it arrived at the proxy, on the monotonic clock.
        by_library: A gRPC library repeats a call on its own.
        heard: The time before the proxy passed on the last message to the client; None if there was none.
        half_closed: The time at which the client half-closed a `WatchJobs` stream; None if it has not.
        end: Its end; None if it is open.
        retries: The failed watches on a `WatchJobs` stream that the client may repeat.
        rejected: The token was rejected for a job of a `WatchJobs` stream, so a fresh one needs another stream.

    """

    method: str
    uid: str
    routed_by: tuple[str, ...]
    request_id: str = ""
    timeout_seconds: float | None = None
    connection: int = 0
    start: float = 0.0
    by_library: bool = False
    heard: float | None = None
    half_closed: float | None = None
    end: End | None = None
    retries: list[JobRetry] = field(default_factory=list)
    rejected: bool = False


@dataclass
class JobRetry:
    """A failed watch of one job on a `WatchJobs` stream, which the client may repeat.

    Attributes:
        uid: The job.
        failed: The time before the proxy passed on the failure.
        retry_seconds: The wait that the failure asks for.
        again: The time at which the job was watched again on the same stream; None if it was not.

    """

    uid: int
    failed: float
    retry_seconds: float
    again: float | None = None


@dataclass
class _Headers:
    """Decodes the header blocks of one direction."""

    decoder: Decoder = field(default_factory=Decoder)
    block: bytes = b""
    ends_stream: bool = False

    def take(self, head: frames.Head, payload: bytes) -> dict[str, list[bytes]] | None:
        """Take a HEADERS or CONTINUATION frame; return the fields after the last one."""
        if head.kind == frames.HEADERS:
            self.ends_stream = bool(head.flags & frames.END_STREAM)
        self.block += frames.content(head, payload)
        if not head.flags & frames.END_HEADERS:
            return None
        fields: dict[str, list[bytes]] = {}
        for name, value in self.decoder.decode(self.block, raw=True):
            fields.setdefault(bytes(name).decode(), []).append(bytes(value))
        self.block = b""
        return fields


@dataclass
class _Messages:
    """Splits the data of a stream into gRPC messages."""

    data: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> Iterator[bytes]:
        """Take data, and yield the messages that are complete."""
        self.data += data
        while len(self.data) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(self.data[1:_PREFIX_BYTES])
            if len(self.data) < end:
                return
            yield bytes(self.data[_PREFIX_BYTES:end])
            del self.data[:end]


@dataclass
class _Stream:
    call: Call
    listed: bool = False
    requests: _Messages = field(default_factory=_Messages)
    responses: _Messages = field(default_factory=_Messages)


class CallReader:
    """Reads the calls on one connection; `calls` receives each call when its first request has arrived."""

    def __init__(self, calls: list[Call], connection: int) -> None:
        self._calls = calls
        self._connection = connection
        self._from_client, self._from_gateway = _Headers(), _Headers()
        self._streams: dict[int, _Stream] = {}

    def take(self, head: frames.Head, payload: bytes) -> None:
        """Take a frame from the client."""
        match head.kind:
            case frames.HEADERS | frames.CONTINUATION:
                if fields := self._from_client.take(head, payload):
                    self._start(head.stream, fields)
            case frames.DATA if stream := self._streams.get(head.stream):
                for message in stream.requests.take(frames.content(head, payload)):
                    self._request(stream, message)
                if head.flags & frames.END_STREAM and stream.call.method == "WatchJobs":
                    stream.call.half_closed = time.monotonic()
            case frames.RST_STREAM:
                self.end(head.stream, End(time.monotonic(), by_client=True))

    def pass_on(self, head: frames.Head, payload: bytes) -> bool:
        """Take a frame from the gateway, before the client receives it; return whether it ends a call with an error."""
        match head.kind:
            case frames.HEADERS | frames.CONTINUATION:
                fields = self._from_gateway.take(head, payload)
                if fields and self._from_gateway.ends_stream:
                    end = _end(fields)
                    self.end(head.stream, end)
                    return end.code != _OK
            case frames.DATA if stream := self._streams.get(head.stream):
                stream.call.heard = time.monotonic()
                if stream.call.method == "WatchJobs":
                    for message in stream.responses.take(frames.content(head, payload)):
                        _note_failure(stream.call, message)
            case frames.RST_STREAM:
                self.end(head.stream, End(time.monotonic()))
        return False

    def end(self, stream: int, end: End) -> None:
        """Note the end of a stream, unless it has ended."""
        if ended := self._streams.pop(stream, None):
            ended.call.end = end

    def end_all(self, *, by_client: bool = False) -> None:
        """Note that the connection breaks."""
        for stream in tuple(self._streams):
            self.end(stream, End(time.monotonic(), by_client=by_client))

    def _start(self, stream: int, fields: Mapping[str, list[bytes]]) -> None:
        if ":path" not in fields:
            return  # trailers
        self._streams[stream] = _Stream(
            Call(
                method=fields[":path"][0].decode().rpartition("/")[2],
                uid="",
                routed_by=tuple(value.decode() for value in fields.get(JOB_UID, ())),
                connection=self._connection,
                start=time.monotonic(),
                by_library=_REPETITION in fields,
            )
        )

    def _request(self, stream: _Stream, message: bytes) -> None:
        call = stream.call
        if request_type := _ABOUT_A_JOB.get(call.method):
            request = request_type.FromString(message)
            call.uid = str(request.uid)
            if isinstance(request, pb.WaitJobRequest) and request.HasField("timeout"):
                call.timeout_seconds = request.timeout.ToMicroseconds() / 1e6
        if call.method == "SendJob":
            call.request_id = pb.SendJobRequest.FromString(message).request_id
        if call.method == "WatchJobs":
            _note_request(call, message)
        if not stream.listed:
            stream.listed = True
            self._calls.append(call)


def _end(trailers: Mapping[str, list[bytes]]) -> End:
    now = time.monotonic()
    code = int(trailers["grpc-status"][0]) if "grpc-status" in trailers else None
    reason, retry_seconds = "", 0.0
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for encoded in trailers.get("grpc-status-details-bin", ()):
        for detail in status_pb2.Status.FromString(_binary(encoded)).details:
            if _unpacks(detail, info) and info.domain == "jobgateway":
                reason = info.reason
            if _unpacks(detail, retry):
                retry_seconds = retry.retry_delay.ToMicroseconds() / 1e6
    return End(now, code, reason, retry_seconds)


def _binary(encoded: bytes) -> bytes:
    # Peers with gRPC's C core agree to send such metadata as it is, after a zero byte.
    return encoded[1:] if encoded.startswith(b"\0") else base64.b64decode(encoded + b"==")


def _unpacks(detail: Any, message: Message) -> bool:
    # Scripted gateways also send malformed details, as proxies do.
    with contextlib.suppress(DecodeError):
        return bool(detail.Unpack(message))
    return False


def _note_failure(call: Call, message: bytes) -> None:
    event = pb.JobEvent.FromString(message)
    if not event.HasField("failure"):
        return
    code = event.failure.code
    call.rejected |= code == _UNAUTHENTICATED
    if code == _UNAVAILABLE or (code == _RESOURCE_EXHAUSTED and event.failure.HasField("retry_delay")):
        seconds = event.failure.retry_delay.ToMicroseconds() / 1e6
        call.retries.append(JobRetry(event.uid, time.monotonic(), seconds))


def _note_request(call: Call, message: bytes) -> None:
    uid = pb.WatchJobsRequest.FromString(message).watch.uid
    for retry in call.retries:
        if retry.uid == uid and retry.again is None:
            retry.again = time.monotonic()
