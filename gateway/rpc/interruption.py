"""The reason why the task of a call was cancelled."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.rpc.call import Call


class Interruption(Enum):
    """Why the task of a call was cancelled, and how the call then ends."""

    CLIENT_CANCELLED = auto()
    """The client left. No one receives a status."""
    AFTER_END = auto()
    """The last event of the stream was given to grpc. An error after it would contradict it, so the call succeeds."""
    SERVER_ABORT = auto()
    """This process stops, and the client gets a status that says so."""
    DEFECT = auto()
    """Something below the handler was cancelled. Without a status, the client would wait until its own deadline."""


def interruption(call: Call | None) -> Interruption:
    """Return why the running task was cancelled; to be called in a handler's `except CancelledError`.

    grpc.aio cancels the task of a handler if the client cancels, its deadline passes or its connection is lost, and
    the context does not say so (grpc/grpc#36193). `Call` does the same if a write finds the connection lost. When this
    process stops, `Call.end` cancels the task too, and sets `aborted_by_server` before. If the task has no request
    for its cancellation, the error came from within; raised out of the handler, it would end the call without a
    status (grpc/grpc#29248).

    Args:
        call: The call of the running task, None if it was not admitted yet.
    """
    task = asyncio.current_task()
    aborted = call is not None and call.aborted_by_server
    if task is not None and task.cancelling() and not aborted:
        return Interruption.CLIENT_CANCELLED
    if call is not None and call.end_sent:
        return Interruption.AFTER_END
    return Interruption.SERVER_ABORT if aborted else Interruption.DEFECT
