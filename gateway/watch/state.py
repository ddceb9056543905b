"""The states that a poll loop reads. Their contents do not matter to the hub."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar


class WatchedState(Protocol):
    """A job as it was read at one moment."""

    @property
    def is_last(self) -> bool:
        """True if no other state can follow."""

    @property
    def size(self) -> int:
        """The memory that the state takes while it is kept, in bytes (an estimate)."""

    def equals(self, other: Self) -> bool:
        """Return whether a watcher could not tell the two states apart."""


S = TypeVar("S", bound=WatchedState)
