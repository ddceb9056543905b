"""Who is told what loops do, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.errors import GatewayError


class PollObserver(Protocol):
    """Is told of each event at once; must be quick, and must not raise."""

    def loop_began(self) -> None:
        """A loop has begun."""

    def watcher_joined(self) -> None:
        """A watcher has come, to a new loop or to one that is there."""

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        """A poll has ended on behalf of `watchers`, well where `error` is None."""


class _NoopPollObserver:
    """Tells nobody."""

    def loop_began(self) -> None:
        """As `PollObserver`."""

    def watcher_joined(self) -> None:
        """As `PollObserver`."""

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        """As `PollObserver`."""


NOOP_OBSERVER: PollObserver = _NoopPollObserver()
