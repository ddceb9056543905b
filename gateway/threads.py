"""Threads for work that would hold the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Threads:
    """A pool of `count` threads; who finds none free waits, first come first served."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done in one of the threads. It goes on where who waits is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


# Apart, so that large requests, which callers can send as many of as they like, hold up no answer. Few, for Python runs
# one at a time, and more would only share the event loop's time with it.
REQUESTS = Threads("requests", 1)
ANSWERS = Threads("answers", 3)
