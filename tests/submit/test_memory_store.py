"""The store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.submit import Claim, IdempotencyKey, InMemoryIdempotencyStore, memory_store
from gateway.submit.store import KEEP_RECORD_SECONDS
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    import pytest


async def test_expired_ids_are_deleted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_store, "PRUNE_SLICE", 2)
    clock = SteppedClock()
    store = InMemoryIdempotencyStore(clock)

    async def take(number: int) -> object:
        return await store.claim(Claim(IdempotencyKey(b"a" * 16, b"%016d" % number), number), b"mark", 100.0)

    for number in range(6):
        assert await take(number) is None
    clock.now += KEEP_RECORD_SECONDS
    left = []
    for number in range(6, 10):
        assert await take(number) is None
        left.append(len(store._entries))  # noqa: SLF001 - what it costs
    assert left == [5, 4, 3, 4]
