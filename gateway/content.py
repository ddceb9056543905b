"""How a result is delivered: the rules of `ContentFormat`, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import RequestInvalid, ResultTooLarge
from gateway.struct_json import NotExactError, json_to_struct

if TYPE_CHECKING:
    from google.protobuf import struct_pb2

    from gateway.domain import Result

# A protobuf parser takes 100 nested messages by default, and each level of a Struct costs it three.
MAX_STRUCT_DEPTH = 32
MAX_AUTOMATIC_STRUCT_BYTES = 1 << 20
# The default receive limit of gRPC is 4 MiB; what is left is for the rest of the job.
MAX_STOCK_BYTES = 3 << 20
MAX_ONE_MESSAGE_BYTES = 256 << 20
# Longer JSON than this has no Struct of 3 MiB but for spaces and digits that nobody writes.
MAX_STRUCT_JSON_BYTES = 16 << 20

CHUNK_BYTES = 256 << 10


def read_format(content_format: int, *, streaming: bool) -> pb.ContentFormat.ValueType:
    """The format of a request. Raises `RequestInvalid` for one that is unknown, or chunks where nothing streams."""
    if content_format not in pb.ContentFormat.values():
        raise RequestInvalid("content_format", f"the gateway knows no format {content_format}")
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS and not streaming:
        raise RequestInvalid("content_format", "chunks come on a stream only: use WatchJob or RunJob")
    return pb.ContentFormat.ValueType(content_format)


def put_result(message: pb.Job, result: Result, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> bool:
    """Puts the result into the message of its job, or marks it as omitted; says whether it goes out in chunks.

    Raises `ResultTooLarge` where one message was asked for and cannot hold it.
    """
    match content_format:
        case pb.CONTENT_FORMAT_NONE:
            fits = False
        case pb.CONTENT_FORMAT_JSON_CHUNKS:
            message.content_omitted = True
            return True
        case pb.CONTENT_FORMAT_JSON:
            if len(result) > MAX_ONE_MESSAGE_BYTES:
                raise ResultTooLarge(
                    f"the result has {len(result)} bytes, and one message holds {MAX_ONE_MESSAGE_BYTES} at most: "
                    "watch the job with CONTENT_FORMAT_JSON_CHUNKS"
                )
            message.content_json = bytes(result.json)
            return False
        case _:
            struct = _struct(result, content_format)
            if struct is not None:
                message.content.CopyFrom(struct)
                return False
            fits = len(result) <= MAX_STOCK_BYTES
            if fits:
                message.content_json = bytes(result.json)
    message.content_omitted = not fits
    return not fits and streaming and content_format != pb.CONTENT_FORMAT_NONE


def _struct(result: Result, content_format: pb.ContentFormat.ValueType) -> struct_pb2.Struct | None:
    rounded = content_format == pb.CONTENT_FORMAT_STRUCT
    longest, largest = (
        (MAX_STRUCT_JSON_BYTES, MAX_STOCK_BYTES)
        if rounded
        else (MAX_AUTOMATIC_STRUCT_BYTES, MAX_AUTOMATIC_STRUCT_BYTES)
    )
    if len(result) > longest:
        return None
    try:
        struct = json_to_struct(result.json, max_depth=MAX_STRUCT_DEPTH, rounded=rounded)
    except NotExactError:
        return None
    return struct if struct.ByteSize() <= largest else None
