"""A time limit over several calls."""

from __future__ import annotations

import time
from typing import NoReturn

import grpc

from jobgateway_client.errors import GatewayError

# Longer limits overflow in gRPC, which then ends the call immediately.
_LONGEST_SECONDS = 10 * 366 * 86_400.0


class Deadline:
    """A time limit, and the last error of the calls within it.

    Args:
        seconds: The time from now in which calls may begin; None is no limit.
        grace: The seconds after it in which the response to the last one may arrive.

    """

    def __init__(self, seconds: float | None, grace: float = 0.0) -> None:
        self._end = None if seconds is None else time.monotonic() + min(seconds, _LONGEST_SECONDS)
        self._grace = grace
        self._last: GatewayError | None = None

    def left(self) -> float | None:
        """Return the seconds that are left, or None if there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def patience(self) -> float | None:
        """Return the seconds in which a response may arrive, or None if there is no limit."""
        return None if self._end is None else max(0.0, self._end + self._grace - time.monotonic())

    def within(self, limit: float) -> float:
        """Return the shorter of `limit` and the time in which a response may arrive, in seconds."""
        patience = self.patience()
        return limit if patience is None else min(limit, patience)

    def failed(self, error: GatewayError) -> None:
        """Note a failed call.

        Raises:
            GatewayError: The deadline ended the call. The cause is the error before.

        """
        if self.left() == 0 and error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not error.from_gateway:
            self.expire()
        self._last = error

    def check(self, wait: float) -> None:
        """Check that a wait in seconds ends before the deadline.

        Raises:
            GatewayError: It does not. The cause is the last error.

        """
        left = self.left()
        if left is not None and wait >= left:
            self.expire()

    def expire(self) -> NoReturn:
        """Raise the error of a deadline that has passed, or whose rest is too short.

        Raises:
            GatewayError: Always. The cause is the last error.

        """
        last = self._last
        message = "the time is over" if last is None else f"{last.message}, and no time is left for another attempt"
        metadata = None if last is None else last.metadata
        raise GatewayError(grpc.StatusCode.DEADLINE_EXCEEDED, message, metadata=metadata) from last
