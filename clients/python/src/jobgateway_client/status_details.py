"""The details of a gRPC status: the messages of `google.rpc` that the gateway uses.

They are defined here, in a pool of their own, so that the client needs no package that registers them for the process.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
}
# The fields of each message in the order of their numbers, which begin with 1. An asterisk means repeated.
_SCHEMA = {
    "Any": {"type_url": "string", "value": "bytes"},
    "Status": {"code": "int32", "message": "string", "details": "*Any"},
    "Entry": {"key": "string", "value": "string"},
    "ErrorInfo": {"reason": "string", "domain": "string", "metadata": "*Entry"},
    "FieldViolation": {"field": "string", "description": "string"},
    "BadRequest": {"field_violations": "*FieldViolation"},
    "Duration": {"seconds": "int64", "nanos": "int32"},
    "RetryInfo": {"retry_delay": "Duration"},
}
_PACKAGE = "jobgateway_client"


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="status_details.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            added = message.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if kind.startswith("*") else added.LABEL_OPTIONAL
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".{_PACKAGE}.{kind.removeprefix('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _SCHEMA}


_MESSAGES = _messages()
_KINDS = {f"google.rpc.{name}": name for name in ("ErrorInfo", "BadRequest", "RetryInfo")}


def status_details(status: bytes, code: int) -> list[tuple[str, Any]]:
    """Return the name and the message of each detail that is known, or none if the status has another code.

    Raises:
        google.protobuf.message.DecodeError: The status or a detail is malformed.

    """
    parsed = _MESSAGES["Status"].FromString(status)
    if parsed.code != code:
        return []
    named = ((_KINDS.get(each.type_url.rpartition("/")[2], ""), each.value) for each in parsed.details)
    return [(name, _MESSAGES[name].FromString(value)) for name, value in named if name]
