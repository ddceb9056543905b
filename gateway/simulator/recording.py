"""The requests that the simulator received, so that tests can inspect them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from multidict import CIMultiDictProxy

MAX_REQUESTS = 10_000
"""The most requests that are kept."""

MAX_BODY_BYTES = 256 * 1024 * 1024
"""The most bytes of bodies that are kept, unless the last request alone has more."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One request that was read completely, with any outcome.

    Attributes:
        method: such as `GET`.
        path: path and query as sent, still percent-encoded.
        headers: all headers; they include the token, so `repr` omits them.
        body: its bytes.
        time: arrival of its head, in seconds of the simulator's clock.

    """

    method: str
    path: str
    headers: CIMultiDictProxy[str] = field(repr=False)
    body: bytes = field(repr=False)
    time: float


class Recording(deque[Recorded]):
    """The latest requests, oldest first, limited by `MAX_REQUESTS` and `MAX_BODY_BYTES`.

    Attributes:
        on_record: Called with each request, before its response.

    """

    def __init__(self) -> None:
        super().__init__()
        self.on_record: Callable[[Recorded], None] = lambda _: None
        self._size = 0

    def record(self, request: Recorded) -> None:
        """Append a request, and drop the oldest ones that exceed a limit."""
        self.append(request)
        self._size += len(request.body)
        while len(self) > 1 and (len(self) > MAX_REQUESTS or self._size > MAX_BODY_BYTES):
            self._size -= len(self.popleft().body)
        self.on_record(request)

    def clear(self) -> None:
        """Remove all requests."""
        super().clear()
        self._size = 0
