"""What the simulator was sent, for tests to look at."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from multidict import CIMultiDictProxy

LARGEST_NUMBER = 10_000
"""Requests kept at once."""

LARGEST_SIZE = 256 * 1024 * 1024
"""Bytes of bodies kept at once, unless the last request alone has more."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One request that was read to its end, whatever became of it.

    Attributes:
        method: such as `GET`.
        path: with the query, as it was on the wire.
        headers: all of them, the token included; hence not in the representation.
        body: as it was sent.
        time: when its head had arrived, in seconds of the simulator's clock.

    """

    method: str
    path: str
    headers: CIMultiDictProxy[str] = field(repr=False)
    body: bytes = field(repr=False)
    time: float


class Recording(deque[Recorded]):
    """The latest requests, oldest first, bounded by `LARGEST_NUMBER` and `LARGEST_SIZE`."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def record(self, request: Recorded) -> None:
        """Append a request, and forget the oldest ones that are too many for it."""
        self.append(request)
        self._size += len(request.body)
        while len(self) > 1 and (len(self) > LARGEST_NUMBER or self._size > LARGEST_SIZE):
            self._size -= len(self.popleft().body)

    def clear(self) -> None:
        """Forget all requests."""
        super().clear()
        self._size = 0
