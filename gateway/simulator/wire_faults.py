"""The faults that act on the connection itself, beneath HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import NoReturn

from gateway.simulator.fault_responses import running_job
from gateway.simulator.faults import Fault

_FLOOD = b"".join(b"X-Flood-%d: %s\r\n" % (number, b"x" * 1000) for number in range(1000))


async def misbehave(fault: Fault, transport: asyncio.Transport, *, uid: int, success: int) -> NoReturn:
    """Carry out a fault without a whole answer, and wait for the connection to be gone.

    aiohttp then cancels the handler that called this, so that it never returns.

    Args:
        fault: one of a wire kind.
        transport: the connection of the request, which was read.
        uid: of the job that the request is about, 0 where it is about none.
        success: the HTTP status that the request would have had.

    """
    whole = running_job(uid)
    head = b"HTTP/1.1 %d Simulated\r\nContent-Type: application/json\r\n" % success
    length = b"Content-Length: %d\r\n" % len(whole)
    half = head + length + b"\r\n" + whole[: len(whole) // 2]
    sent = {
        "half_body": half,
        "swallow": half,
        "two_lengths": head + length + b"Content-Length: 7\r\n\r\n" + whole,
        "header_flood": head + _FLOOD + length + b"\r\n" + whole,
    }
    transport.write(sent.get(str(fault.kind), b""))
    if fault.kind == "reset":
        reset(transport)
    elif fault.kind not in ("hang", "swallow"):
        transport.close()
    while True:  # the event is never set: only the cancelling ends this
        await asyncio.Event().wait()


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a TCP reset instead of an orderly end."""
    connection = transport.get_extra_info("socket")
    # To linger for 0 seconds is what makes the kernel send RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
