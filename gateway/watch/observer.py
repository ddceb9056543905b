"""The events of poll loops that become metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.errors import GatewayError


class PollObserver(Protocol):
    """Receives events when they happen. Its methods must be quick, and must not raise."""

    def loop_began(self) -> None:
        """Record that a loop has started."""

    def watcher_joined(self) -> None:
        """Record that a watcher has joined a loop, new or not."""

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        """Record that a poll for `watchers` watchers has ended, successfully if `error` is None."""
