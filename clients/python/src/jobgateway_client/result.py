"""The result of a job, assembled from whichever form it arrived in, and verified."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Self

from google.protobuf import json_format
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.errors import ResultDamagedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf import struct_pb2


class Result:
    """The JSON of a result.

    Args:
        delivered: The call delivers the result of every job that has a number, in its message or in chunks.

    """

    def __init__(self, *, delivered: bool = False) -> None:
        self._data: bytes | bytearray = bytearray()
        self._struct: struct_pb2.Struct | None = None
        self._delivered = delivered

    @property
    def data(self) -> bytes:
        """The upstream's own bytes, or JSON with sorted names if the result arrived as a `Struct`.

        Until the end of the job, it is a copy of the bytes that have arrived. Empty if there is no result, if it was
        not requested, or if the gateway has not kept it.
        """
        if self._struct is not None:
            # Only now, because a large one takes a second.
            self._data, self._struct = _struct_json(self._struct), None
        return bytes(self._data)

    @classmethod
    def of(cls, job: pb.Job) -> Self:
        """Return the result in a response.

        Raises:
            ResultDamagedError: The result does not match its SHA-256.

        """
        result = cls()
        result._finish(job)
        return result

    def take(self, event: pb.JobEvent) -> None:
        """Add what an event has of the result, and verify the result at the job's end.

        Raises:
            ResultDamagedError: The result is incomplete, or does not match its SHA-256.

        """
        if event.HasField("content_chunk") and isinstance(self._data, bytearray):
            # After a resumption, chunks may start again at 0.
            del self._data[event.content_chunk.offset :]
            self._data += event.content_chunk.data
        if event.job.done:
            self._finish(event.job)

    def _finish(self, job: pb.Job) -> None:
        if job.HasField("content"):
            self._struct = job.content
            return
        # From now on, `data` needs no copy.
        self._data = job.content_json if job.HasField("content_json") else bytes(self._data)
        if not job.content_size:
            return
        # The gateway does not keep the result of a job without a number, which a repeated submission may lead to.
        if not self._data and job.content_omitted and not (self._delivered and job.uid):
            return
        if not self._data:
            raise ResultDamagedError(job.uid, f"none of its {job.content_size:,} bytes arrived")
        if len(self._data) != job.content_size:
            raise ResultDamagedError(job.uid, f"{len(self._data):,} of {job.content_size:,} bytes arrived")
        if hashlib.sha256(self._data).hexdigest() != job.content_sha256:
            raise ResultDamagedError(job.uid, f"all {job.content_size:,} bytes arrived, but their SHA-256 is wrong")


class Results:
    """The results of many jobs on a `WatchJobs` stream, as far as they have arrived."""

    def __init__(self, starts: Iterable[pb.WatchJobRequest]) -> None:
        self._unwanted = {each.uid for each in starts if each.content_format == pb.CONTENT_FORMAT_NONE}
        self._held: dict[int, Result] = {}

    def of(self, uid: int) -> bytes:
        """Return the JSON of the result of a job, empty if nothing of it has arrived."""
        return self._held[uid].data if uid in self._held else b""

    def take(self, event: pb.JobEvent) -> None:
        """Add what an event has of a result, and verify the result at the job's end.

        Raises:
            ResultDamagedError: The result is incomplete, or does not match its SHA-256.

        """
        if event.HasField("content_chunk") or event.job.done:
            result = self._held.setdefault(event.uid, Result(delivered=event.uid not in self._unwanted))
            result.take(event)

    def release(self, uid: int) -> None:
        """Forget the result of a job."""
        self._held.pop(uid, None)


def stream_result(request: pb.RunJobRequest | pb.WatchJobRequest) -> Result:
    """Return the empty result of a stream, which delivers all results unless the request wants none."""
    content_format = (request.request if isinstance(request, pb.RunJobRequest) else request).content_format
    return Result(delivered=content_format != pb.CONTENT_FORMAT_NONE)


def _struct_json(struct: struct_pb2.Struct) -> bytes:
    # A Struct has no order and no integers: names are sorted, and whole numbers are written as such.
    return json.dumps(_plain(json_format.MessageToDict(struct)), sort_keys=True, ensure_ascii=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
