"""Places for polls that are under way, so that neither the upstream nor our own connections are overrun."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What one credential may take of them all: polls of its that hang must not hold up everybody else's.
SHARE = 0.75


class Slots:
    """`total` places, of which one credential takes at most three quarters. Who finds none waits for its turn."""

    def __init__(self, total: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._share = max(1, int(total * SHARE))
        self._own: dict[bytes, asyncio.Semaphore] = {}
        self._users: dict[bytes, int] = {}

    @asynccontextmanager
    async def take(self, credential: bytes) -> AsyncIterator[None]:
        """Holds a place until the context is left."""
        own = self._own.setdefault(credential, asyncio.Semaphore(self._share))
        self._users[credential] = self._users.get(credential, 0) + 1
        try:
            async with own, self._all:
                yield
        finally:
            self._users[credential] -= 1
            if not self._users[credential]:
                del self._users[credential], self._own[credential]

    def __len__(self) -> int:
        """How many credentials hold places or wait for them."""
        return len(self._own)
