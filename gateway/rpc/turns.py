"""The order in which the jobs of one stream write."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T", bound="Hashable")
P = TypeVar("P")


class Turns(Generic[T, P]):
    """Round robin: each item that is ready has one turn per pass, and after each pass one large part is written.

    So an item waits for at most one large part, and a large part for at most one turn of each item.
    """

    def __init__(self) -> None:
        # Ordered by time. An item is in it at most once, and can leave without a search.
        self._ready: OrderedDict[T, None] = OrderedDict()
        self._part: P | None = None
        # The turns that are left in this pass, after which a part is written; None before the pass.
        self._left: int | None = 0

    def __bool__(self) -> bool:
        return bool(self._ready) or self._part is not None

    def add(self, item: T) -> None:
        """Let an item write after all others; no effect if it waits already."""
        self._ready[item] = None

    def remove(self, item: T) -> None:
        """Take back `add`; no effect if the item does not wait."""
        self._ready.pop(item, None)

    def offer(self, part: P) -> None:
        """Let a large part be written after this pass. There must be no other one."""
        self._part = part

    def next(self) -> T | None:
        """Return the item whose turn it is, or None if it is the turn of the part, or no one is ready."""
        if self._left is None:
            # Counted here, so that the pass has the items too that became ready while the last part was written.
            self._left = len(self._ready)
        if not self._ready or (self._part is not None and self._left <= 0):
            return None
        self._left -= 1
        return self._ready.popitem(last=False)[0]

    def take_part(self) -> P | None:
        """Return the large part if there is one; the next pass begins once it is written."""
        part, self._part = self._part, None
        self._left = None
        return part
