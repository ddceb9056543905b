"""The calls of a client, read from the HTTP/2 frames that it sends to the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from hpack import Decoder
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner import frames

if TYPE_CHECKING:
    from collections.abc import Iterable

JOB_UID: Final = "x-job-uid"
"""The metadata by which proxies can route the calls about one job."""

_Request: TypeAlias = pb.GetJobRequest | pb.WaitJobRequest | pb.CancelJobRequest | pb.WatchJobRequest
_ABOUT_A_JOB: Final[dict[str, type[_Request]]] = {
    "GetJob": pb.GetJobRequest,
    "WaitJob": pb.WaitJobRequest,
    "CancelJob": pb.CancelJobRequest,
    "WatchJob": pb.WatchJobRequest,
}
# The compression flag and the length of a gRPC message.
_PREFIX_BYTES: Final = 5


class Call(NamedTuple):
    """A call: the method, the uid in its request (empty if the method has none), and its `x-job-uid` headers."""

    method: str
    uid: str
    routed_by: tuple[str, ...]

    @classmethod
    def of(cls, method: str, uid: str, headers: Iterable[tuple[str, str | bytes]] | None) -> Call:
        """Return the call with these headers."""
        return cls(method, uid, tuple(str(value) for name, value in headers or () if name == JOB_UID))


@dataclass
class _Stream:
    headers: list[tuple[str, str]]
    data: bytearray = field(default_factory=bytearray)


class CallReader:
    """Reads the calls on one connection; `calls` receives those whose request has arrived completely."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self._headers = Decoder()
        self._block = b""
        self._streams: dict[int, _Stream] = {}

    def take(self, head: frames.Head, payload: bytes) -> None:
        """Take a frame from the client."""
        match head.kind:
            case frames.HEADERS | frames.CONTINUATION:
                self._block += frames.content(head, payload)
                if head.flags & frames.END_HEADERS:
                    decoded = [(str(name), str(value)) for name, value in self._headers.decode(self._block)]
                    self._block = b""
                    self._streams[head.stream] = _Stream(decoded)
            case frames.DATA if stream := self._streams.get(head.stream):
                stream.data += frames.content(head, payload)
        if head.kind in (frames.HEADERS, frames.DATA) and head.flags & frames.END_STREAM:
            self._end(self._streams.pop(head.stream))

    def _end(self, stream: _Stream) -> None:
        method = dict(stream.headers)[":path"].rpartition("/")[2]
        request = _ABOUT_A_JOB.get(method)
        uid = str(request.FromString(bytes(stream.data[_PREFIX_BYTES:])).uid) if request else ""
        self._calls.append(Call.of(method, uid, stream.headers))
