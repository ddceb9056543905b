"""Tasks that a test starts and does not wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def has_ended(task: asyncio.Task[None]) -> bool:
    """Return whether a task has ended. Raises its error, which nobody else reads."""
    if task.done() and not task.cancelled():
        task.result()
    return task.done()
