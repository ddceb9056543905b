"""How a result is delivered: the rules of `ContentFormat`, and nothing else."""

from __future__ import annotations

import enum
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


def read_format(content_format: int, *, streaming: bool) -> pb.ContentFormat.ValueType:
    """The format of a request. Raises `RequestInvalid` for one that is unknown, or chunks where nothing streams."""
    if content_format not in pb.ContentFormat.values():
        raise RequestInvalid("content_format", f"the gateway knows no format {content_format}")
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS and not streaming:
        raise RequestInvalid("content_format", "chunks come on a stream only: use WatchJob or RunJob")
    return pb.ContentFormat.ValueType(content_format)


class Delivery(enum.Enum):
    """Where a result goes."""

    IN_MESSAGE = enum.auto()
    IN_CHUNKS = enum.auto()
    LEFT_OUT = enum.auto()


def put_result(
    message: pb.Job, result: Result, content_format: pb.ContentFormat.ValueType, *, streaming: bool
) -> Delivery:
    """Puts the result into the message of its job, or marks it there as omitted; says where it goes.

    Raises `ResultTooLarge` where one message was asked for and cannot hold it.
    """
    delivery = _put(message, result, content_format, streaming=streaming)
    message.content_omitted = delivery is not Delivery.IN_MESSAGE
    return delivery


def _put(message: pb.Job, result: Result, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> Delivery:
    if content_format == pb.CONTENT_FORMAT_NONE:
        return Delivery.LEFT_OUT
    if content_format == pb.CONTENT_FORMAT_JSON_CHUNKS:
        return Delivery.IN_CHUNKS
    if content_format == pb.CONTENT_FORMAT_JSON:
        if len(result) > MAX_ONE_MESSAGE_BYTES:
            raise ResultTooLarge(
                f"the result has {len(result)} bytes, and one message holds {MAX_ONE_MESSAGE_BYTES} at most: "
                "watch the job with CONTENT_FORMAT_JSON_CHUNKS"
            )
    else:
        struct = _struct(result, content_format)
        if struct is not None:
            message.content.CopyFrom(struct)
            return Delivery.IN_MESSAGE
        if len(result) > MAX_STOCK_BYTES:
            return Delivery.IN_CHUNKS if streaming else Delivery.LEFT_OUT
    message.content_json = bytes(result.json)
    return Delivery.IN_MESSAGE


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
