"""The waits of the sync client, which end early if the client is closed or the watch is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobgateway_client import calls

if TYPE_CHECKING:
    from jobgateway_client.deadline import Deadline


class Closing:
    """The end of a client.

    Attributes:
        closed: True if the client is closed.
        changed: Is notified of each change that a call may wait for. Its lock can be acquired again by the thread that
            has it, because the cycle collector may release a connection at any time.

    """

    def __init__(self) -> None:
        self.closed = False
        self.changed = threading.Condition()

    def close(self) -> None:
        """End all waits."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Waiting:
    """The waits of one call or watch.

    Attributes:
        deadline: Its time limit.

    """

    def __init__(self, closing: Closing, deadline: Deadline) -> None:
        self.deadline = deadline
        self._closing = closing
        self._left = False

    def leave(self) -> None:
        """End the waits, because the watch is closed."""
        with self._closing.changed:
            self._left = True
            self._closing.changed.notify_all()

    def check(self) -> None:
        """Check that neither the client nor the watch is closed.

        Raises:
            GatewayError: One of them is.

        """
        if self._closing.closed:
            raise calls.closed_error()
        if self._left:
            raise calls.left_error()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            GatewayError: The client or the watch was closed.

        """
        with self._closing.changed:
            self._closing.changed.wait_for(self._is_stopped, seconds)
        self.check()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            GatewayError: The client or the watch was closed, or the time is over.

        """
        with self._closing.changed:
            self._closing.changed.wait_for(lambda: condition() or self._is_stopped(), self.deadline.patience())
        if not condition():
            self.check()
            self.deadline.expire()

    def _is_stopped(self) -> bool:
        return self._left or self._closing.closed
