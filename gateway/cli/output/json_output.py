"""Standard output as JSON: an object per line, with the upstream's own JSON as `result`."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from google.protobuf.message import Message
    from jobgateway.v1 import job_service_pb2 as pb
    from jobgateway_client import GatewayError

# Outside of strings, JSON has line breaks only as white space.
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
# Characters with which a terminal does something, and that JSON allows within strings.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def show_object(document: Mapping[str, object], result: bytes | bytearray = b"") -> None:
    """Print an object on one line, with `result` as its last member unless that is empty."""
    text = json.dumps(document)
    sys.stdout.flush()
    out = sys.stdout.buffer
    if result:
        out.write(f'{text[:-1]}{", " if document else ""}"result": '.encode())
        # Not parsed, so that no number changes.
        out.write(_line(result))
        out.write(b"}\n")
    else:
        out.write(f"{text}\n".encode())
    out.flush()


def show_message(
    message: pb.Job | pb.JobEvent,
    result: bytes | bytearray = b"",
    *,
    replayed: bool = False,
    result_file: Path | None = None,
) -> None:
    """Print a response or an event with its result, or with the file that has the result."""
    document = _document(message)
    if replayed:
        document["replayed"] = True
    if result_file is not None:
        document["result_file"] = str(result_file)
    show_object(document, b"" if result_file else result)


def show_failure(
    code: str,
    message: str,
    *,
    reason: str = "",
    fields: Iterable[tuple[str, str]] = (),
    retry_after: float | None = None,
    uid: int = 0,
) -> None:
    """Print a failure. Members that are not known are null, and `retry_after` is in seconds."""
    error = {
        "code": code,
        "reason": reason or None,
        "message": message,
        "fields": [{"field": path, "problem": problem} for path, problem in fields],
        "retry_after_seconds": retry_after,
        "uid": str(uid) if uid else None,
    }
    show_object({"error": error})


def show_error(error: GatewayError, uid: int = 0, problem: str = "", code: str = "") -> None:
    """Print a call that failed.

    `uid` is the job, if the error does not name it. `problem` and `code` replace those of the error.
    """
    show_failure(
        code or error.code.name,
        problem or error.message,
        reason=error.reason,
        fields=error.fields,
        retry_after=error.retry_delay,
        uid=error.uid or uid,
    )


def _document(message: Message) -> dict[str, object]:
    # Imported here, because wrong usage is reported with this module, too.
    from google.protobuf import json_format

    document: dict[str, object] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    job = document.get("job", document)
    if isinstance(job, dict):
        for name in ("content", "content_json", "content_omitted"):
            job.pop(name, None)
    return document


def _line(result: bytes | bytearray) -> bytes:
    line = result.translate(_ONE_LINE)
    if not sys.stdout.isatty():
        return bytes(line)
    text = line.decode(errors="replace")
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
