"""Failed TLS handshakes in the log.

grpc reports them only in the trace of its C core, which goes to file descriptor 2. A pipe takes its place, and a thread
reads it. The pipe never blocks a writer: when it is full, lines are lost.
"""

from __future__ import annotations

import faulthandler
import os
import re
import threading
import time
from typing import TYPE_CHECKING

import structlog

from gateway.auth.peer import printable, shown_address

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_ERROR = 2
# What `gateway.__main__` sets before the import of grpc.
TRACE = {"GRPC_VERBOSITY": "INFO", "GRPC_TRACE": "handshaker"}

# A pipe holds as much, which is the trace of 25 handshakes.
READ_BYTES = 64 << 10
# Between two reads of 2 ms, so that a flood of connections takes about a tenth of a core. Writers then lose lines.
PAUSE_SECONDS = 0.02
# The longest record is 1.5 kB.
MAX_RECORD_BYTES = 8 << 10

_RECORD = re.compile(rb"^[IWEF]\d{4} ", re.MULTILINE)
_STEP = b"CallNextHandshakerLocked: error="
_OK = b"OK "
_ADDRESS = b"grpc.internal.endpoint_peer_address="
# A client of this process, such as the exporter of traces, has none.
_SERVER = b"grpc.internal.server_credentials="
# The code of OpenSSL, and what it says about a certificate.
_OPENSSL = re.compile(r"OPENSSL_internal:([A-Z0-9_]+)(?:: ([^:]+))?")
_NO_DETAILS = (None, "OK", "Invalid certificate verification context")
CLOSED = "the client closed the connection"

_log = structlog.get_logger()


def traced() -> bool:
    """Return whether the C core writes the trace that `report` reads."""
    return all(os.environ.get(name) == value for name, value in TRACE.items())


def report() -> int:
    """Begin to log failed handshakes. Return the descriptor of the real standard error."""
    real = os.dup(STANDARD_ERROR)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.dup2(write_end, STANDARD_ERROR)
    os.close(write_end)
    # A crash leaves its text in the pipe. This writes the tracebacks to the real standard error.
    faulthandler.enable(real)
    threading.Thread(target=_read, args=(read_end,), name="handshakes", daemon=True).start()
    return real


def failures(data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Return reason and address of each failed handshake in a trace, and the last record, which may be incomplete."""
    *records, rest = _RECORD.split(data)
    return [found for record in records for found in _failure(record)], rest[:MAX_RECORD_BYTES]


def _failure(record: bytes) -> Iterator[tuple[str, str]]:
    # Without a regular expression, because a peer's certificate is in the text, and backtracking would hold the GIL.
    _, step, error = record.partition(_STEP)
    if not step or error.startswith(_OK) or _SERVER not in error:
        return
    text, _, rest = error.partition(b"\n")
    arguments = rest if _ADDRESS in rest else text
    _, found, address = arguments.partition(_ADDRESS)
    if found:
        reason = text.partition(_ADDRESS)[0].partition(b": ")[2]
        uri = re.split(rb"[,}\s]", address, maxsplit=1)[0]
        yield printable(_reason(reason.decode("latin-1"))), shown_address(uri.decode("latin-1"))


def _reason(text: str) -> str:
    if "Socket closed" in text:
        return CLOSED
    match = _OPENSSL.search(text)
    if match is None:
        return text
    code, detail = match.groups()
    return code if detail in _NO_DETAILS else f"{code}: {detail}"


def _read(fd: int) -> None:
    rest = b""
    while data := os.read(fd, READ_BYTES):
        found, rest = failures(rest + data)
        for reason, address in found:
            # Load balancers and scanners close connections without a handshake all the time.
            write = _log.info if reason == CLOSED else _log.warning
            write("tls.handshake_failed", reason=reason, address=address, seldom=True)
        time.sleep(PAUSE_SECONDS)
