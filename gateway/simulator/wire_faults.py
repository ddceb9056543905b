"""Faults of the connection, below HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import NoReturn

from gateway.simulator.fault_responses import running_job
from gateway.simulator.faults import Fault

_FLOOD = b"".join(b"X-Flood-%d: %s\r\n" % (number, b"x" * 1000) for number in range(1000))


async def misbehave(fault: Fault, transport: asyncio.Transport, *, uid: int, success: int) -> NoReturn:
    """Play a fault without a complete response, and wait until the connection is closed.

    It never returns, because aiohttp then cancels the handler that awaits it.

    Args:
        fault: a fault of a `WireKind`.
        transport: the connection, after its request was read.
        uid: uid of the requested job, 0 if the request concerns none.
        success: the HTTP status of the response without the fault.

    """
    job = running_job(uid)
    head = b"HTTP/1.1 %d Simulated\r\nContent-Type: application/json\r\n" % success
    length = b"Content-Length: %d\r\n" % len(job)
    half = head + length + b"\r\n" + job[: len(job) // 2]
    sent = {
        "half_body": half,
        "swallow": half,
        "two_lengths": head + length + b"Content-Length: 7\r\n\r\n" + job,
        "header_flood": head + _FLOOD + length + b"\r\n" + job,
    }
    transport.write(sent.get(str(fault.kind), b""))
    if fault.kind == "reset":
        reset(transport)
    elif fault.kind not in ("hang", "swallow"):
        transport.close()
    while True:  # the event is never set; only cancellation ends this
        await asyncio.Event().wait()


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a TCP reset (RST) instead of a FIN."""
    connection = transport.get_extra_info("socket")
    # With a linger time of 0 seconds, the kernel sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
