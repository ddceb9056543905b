"""Compare the error of a call with the table in docs/reference/errors.md."""

from __future__ import annotations

import base64
import re

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "errors.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", re.MULTILINE)
MAX_TRAILER_BYTES = 8 << 10
LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")

CODES = {reason: StatusCode[code] for reason, code in ROW.findall(DOCUMENT.read_text())}


def check_error(code: StatusCode, message: str, details: bytes) -> str:
    """Return the reason of an error, which must be complete, in the table, and small enough for the trailers."""
    assert LINE.fullmatch(message), "one line"
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (code.value[0], message)
    infos = [each for each in status.details if each.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1, "exactly one ErrorInfo"
    info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
    assert info.domain == "jobgateway"
    assert CODES[info.reason] is code
    encoded = sum(1 if " " <= each <= "~" and each != "%" else 3 * len(each.encode()) for each in message)
    assert encoded + len(base64.b64encode(details)) < MAX_TRAILER_BYTES
    return str(info.reason)
