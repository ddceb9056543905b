"""A snapshot of a poll loop, as the status page shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

import msgspec

from gateway.watch.state import S

if TYPE_CHECKING:
    from gateway.errors import UpstreamError
    from gateway.watch.key import WatchKey


class LoopSnapshot(msgspec.Struct, Generic[S], frozen=True):
    """A poll loop at one moment. All moments are in seconds of the clock.

    Attributes:
        key: The job and the credential.
        state: The last state that was read, or None.
        began: The start of the loop.
        next_poll: The time of the next poll, or None during a poll.
        failures: The number of failed polls since the last success.
        last_failure: The last of these failures, or None.
        watchers: The number of watchers.
        clients: The `caller_key`s of the watchers.
    """

    key: WatchKey
    state: S | None
    began: float
    next_poll: float | None
    failures: int
    last_failure: UpstreamError | None
    watchers: int
    clients: frozenset[bytes]
