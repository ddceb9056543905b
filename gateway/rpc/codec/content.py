"""The placement of a result: the rules of `ContentFormat`."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestInvalid, ResultTooLarge
from gateway.rpc.codec.struct_json import NotExactError, encode_struct
from gateway.rpc.codec.wire import tag, varint

if TYPE_CHECKING:
    from gateway.models import Result

# A protobuf parser accepts 100 nested messages by default, and a Struct has three per level.
MAX_STRUCT_DEPTH = 32
MAX_AUTOMATIC_STRUCT_BYTES = 1 << 20
# Clients receive at most 4 MiB by default; the difference is for the rest of the job.
MAX_DEFAULT_CLIENT_BYTES = 3 << 20
MAX_ONE_MESSAGE_BYTES = 256 << 20
# Longer JSON fits a Struct of 3 MiB only with spaces and digits that real results do not have.
MAX_STRUCT_JSON_BYTES = 16 << 20
# The bytes that a JSON escape may have more than its character.
LONGEST_ESCAPE = 5


FORMATS = frozenset(pb.ContentFormat.values())


def read_format(content_format: int, *, streaming: bool) -> pb.ContentFormat.ValueType:
    """Return the format that a request asks for.

    Raises:
        RequestInvalid: The format is unknown, or asks for chunks of a call that is not `streaming`.
    """
    if content_format not in FORMATS:
        raise RequestInvalid("content_format", f"must be a known format (got {content_format})")
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS and not streaming:
        raise RequestInvalid("content_format", "chunks need a stream; use WatchJob or RunJob")
    return pb.ContentFormat.ValueType(content_format)


class Placement(enum.Enum):
    """The place of a result: in the message of its job, in chunks before it, or nowhere."""

    IN_MESSAGE = enum.auto()
    IN_CHUNKS = enum.auto()
    LEFT_OUT = enum.auto()


class PlacedResult(NamedTuple):
    """The placement of a result, and, if it is in the message, its encoded field of the `Job`, in pieces."""

    placement: Placement
    field: tuple[bytes | memoryview, ...] = ()


_CONTENT, _CONTENT_JSON = (tag(pb.Job.DESCRIPTOR, name) for name in ("content", "content_json"))


def place_result(result: Result, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> PlacedResult:
    """Place a result as a format asks.

    Raises:
        ResultTooLarge: The client asked for one message, which cannot hold the result.
    """
    if content_format == pb.CONTENT_FORMAT_NONE:
        return PlacedResult(Placement.LEFT_OUT)
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS:
        return PlacedResult(Placement.IN_CHUNKS)
    if content_format == pb.CONTENT_FORMAT_JSON:
        if len(result) > MAX_ONE_MESSAGE_BYTES:
            raise ResultTooLarge(
                f"the result has {len(result)} bytes, and one message holds at most {MAX_ONE_MESSAGE_BYTES}; "
                "watch the job with CONTENT_FORMAT_JSON_CHUNKS"
            )
    else:
        struct = _struct(result, content_format)
        if struct is not None:
            return _in_message(_CONTENT, struct)
        if len(result) > MAX_DEFAULT_CLIENT_BYTES:
            return PlacedResult(Placement.IN_CHUNKS if streaming else Placement.LEFT_OUT)
    return _in_message(_CONTENT_JSON, result.json)


def _in_message(start: bytes, content: bytes | memoryview) -> PlacedResult:
    return PlacedResult(Placement.IN_MESSAGE, (start + varint(len(content)), content))


def _struct(result: Result, content_format: pb.ContentFormat.ValueType) -> bytes | None:
    rounded = content_format == pb.CONTENT_FORMAT_STRUCT
    largest = MAX_DEFAULT_CLIENT_BYTES if rounded else MAX_AUTOMATIC_STRUCT_BYTES
    if len(result) > (MAX_STRUCT_JSON_BYTES if rounded else largest) or _least_struct_bytes(result) > largest:
        return None
    try:
        return encode_struct(result.json, max_depth=MAX_STRUCT_DEPTH, max_bytes=largest, rounded=rounded)
    except NotExactError:
        return None


def _least_struct_bytes(result: Result) -> int:
    # A Struct has at least half the bytes of its JSON, without spaces, escapes and unusual digits.
    raw = bytes(result.json)
    return (len(raw) - sum(map(raw.count, (b" ", b"\t", b"\r", b"\n"))) - LONGEST_ESCAPE * raw.count(b"\\")) // 2
