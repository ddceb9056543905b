"""How a result is delivered: the rules of `ContentFormat`, and nothing else."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestInvalid, ResultTooLarge
from gateway.rpc.codec.struct_json import NotExactError, encode_struct
from gateway.rpc.codec.wire import tag, varint

if TYPE_CHECKING:
    from gateway.models import Result

# A protobuf parser takes 100 nested messages by default, and each level of a Struct costs it three.
MAX_STRUCT_DEPTH = 32
MAX_AUTOMATIC_STRUCT_BYTES = 1 << 20
# The default receive limit of gRPC is 4 MiB; what is left is for the rest of the job.
MAX_STOCK_BYTES = 3 << 20
MAX_ONE_MESSAGE_BYTES = 256 << 20
# Longer JSON than this has no Struct of 3 MiB but for spaces and digits that nobody writes.
MAX_STRUCT_JSON_BYTES = 16 << 20
# What an escape may take more than its character.
LONGEST_ESCAPE = 5


FORMATS = frozenset(pb.ContentFormat.values())


def read_format(content_format: int, *, streaming: bool) -> pb.ContentFormat.ValueType:
    """The format of a request. Raises `RequestInvalid` for one that is unknown, or chunks where nothing streams."""
    if content_format not in FORMATS:
        raise RequestInvalid("content_format", f"the gateway knows no format {content_format}")
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS and not streaming:
        raise RequestInvalid("content_format", "chunks come on a stream only: use WatchJob or RunJob")
    return pb.ContentFormat.ValueType(content_format)


class Placement(enum.Enum):
    """Where a result goes."""

    IN_MESSAGE = enum.auto()
    IN_CHUNKS = enum.auto()
    LEFT_OUT = enum.auto()


class PlacedResult(NamedTuple):
    """Where a result goes, and the encoded field of the `Job` that carries it, in pieces; none if elsewhere."""

    placement: Placement
    field: tuple[bytes | memoryview, ...] = ()


_CONTENT, _CONTENT_JSON = (tag(pb.Job.DESCRIPTOR, name) for name in ("content", "content_json"))


def place_result(result: Result, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> PlacedResult:
    """How a result goes out in a format. Raises `ResultTooLarge` where one message was asked for and cannot hold it."""
    if content_format == pb.CONTENT_FORMAT_NONE:
        return PlacedResult(Placement.LEFT_OUT)
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS:
        return PlacedResult(Placement.IN_CHUNKS)
    if content_format == pb.CONTENT_FORMAT_JSON:
        if len(result) > MAX_ONE_MESSAGE_BYTES:
            raise ResultTooLarge(
                f"the result has {len(result)} bytes, and one message holds {MAX_ONE_MESSAGE_BYTES} at most: "
                "watch the job with CONTENT_FORMAT_JSON_CHUNKS"
            )
    else:
        struct = _struct(result, content_format)
        if struct is not None:
            return _in_message(_CONTENT, struct)
        if len(result) > MAX_STOCK_BYTES:
            return PlacedResult(Placement.IN_CHUNKS if streaming else Placement.LEFT_OUT)
    return _in_message(_CONTENT_JSON, result.json)


def _in_message(start: bytes, content: bytes | memoryview) -> PlacedResult:
    return PlacedResult(Placement.IN_MESSAGE, (start + varint(len(content)), content))


def _struct(result: Result, content_format: pb.ContentFormat.ValueType) -> bytes | None:
    rounded = content_format == pb.CONTENT_FORMAT_STRUCT
    largest = MAX_STOCK_BYTES if rounded else MAX_AUTOMATIC_STRUCT_BYTES
    if len(result) > (MAX_STRUCT_JSON_BYTES if rounded else largest) or _least_struct_bytes(result) > largest:
        return None
    try:
        return encode_struct(result.json, max_depth=MAX_STRUCT_DEPTH, max_bytes=largest, rounded=rounded)
    except NotExactError:
        return None


def _least_struct_bytes(result: Result) -> int:
    # A Struct has a byte for two of its JSON at least, but for spaces, escapes and digits that nobody writes.
    raw = bytes(result.json)
    return (len(raw) - sum(map(raw.count, (b" ", b"\t", b"\r", b"\n"))) - LONGEST_ESCAPE * raw.count(b"\\")) // 2
