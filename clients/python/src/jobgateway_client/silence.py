"""The events of a sync call, which is cancelled if one takes too long. gRPC's sync iterators have no timeout."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb


class Listener:
    """Reads the events of a call, and cancels the call if it is silent for too long while it is being read.

    Use it as a context manager, which ends its thread.

    Attributes:
        given_up: True if the call was cancelled because of its silence.

    """

    def __init__(self, call: Any) -> None:
        self.given_up = False
        self._call = call
        self._changed = threading.Condition()
        self._over = False
        # In seconds; the time until which an event is expected, if one is.
        self._limit = 0.0
        self._until: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()

    def next(self, limit: float) -> pb.JobEvent | None:
        """Return the next event, or None after the last one. `limit` is in seconds."""
        self._until = time.monotonic() + limit
        if limit != self._limit:
            self._set(limit)
        try:
            return cast("pb.JobEvent | None", next(self._call, None))
        except RuntimeError as error:
            # Ctrl-C while `threading.Condition.wait` has released its lock is replaced by this error.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            self._until = None

    def _set(self, limit: float) -> None:
        with self._changed:
            if not self._limit:
                # One thread for the call, not a timer for each event.
                threading.Thread(target=self._guard, daemon=True).start()
            self._limit = limit
            self._changed.notify()

    def _guard(self) -> None:
        with self._changed:
            while not self._over:
                now = time.monotonic()
                until = self._until
                if until is not None and now >= until:
                    break
                # A deadline that `next` sets meanwhile is later than the end of this wait.
                self._changed.wait(self._limit if until is None else until - now)
            else:
                return
        self.given_up = True
        self._call.cancel()
