"""The result of a job, put together from whichever way it came."""

import hashlib
import json

from google.protobuf import json_format, struct_pb2
from jobgateway.v1 import job_service_pb2 as pb


class ResultBroken(Exception):
    """The result is not what the gateway said that it is."""


class Result:
    """Collects the result of a job from its events, or from a `Job`.

    `data` is its JSON: the upstream's own bytes, unless it came as a `Struct`. It is empty where there is none.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    def take(self, event: pb.JobEvent) -> None:
        """Takes what an event has of the result. Raises `ResultBroken` at the end where it does not fit its hash."""
        if event.HasField("content_chunk"):
            # After a resumption the chunks may start again: what is there is cut to where this one begins.
            del self.data[event.content_chunk.offset :]
            self.data += event.content_chunk.data
        if event.job.done:
            self.take_job(event.job)

    def take_job(self, job: pb.Job) -> None:
        """Takes the result from a job, or checks the chunks that came before it.

        Raises `ResultBroken` where it does not fit its hash.
        """
        if job.HasField("content"):
            self.data = bytearray(_struct_json(job.content))
            return
        if job.HasField("content_json"):
            self.data = bytearray(job.content_json)
        if job.content_size and hashlib.sha256(self.data).hexdigest() != job.content_sha256:
            raise ResultBroken(f"the result of job {job.uid} was damaged on its way: its SHA-256 is another")


def _struct_json(struct: struct_pb2.Struct) -> bytes:
    # A Struct has neither an order nor integers: names are sorted, and whole numbers are written as such.
    return json.dumps(_plain(json_format.MessageToDict(struct)), sort_keys=True, ensure_ascii=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
