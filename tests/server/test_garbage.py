"""The collector of garbage, on the stepped clock and in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gateway.server import garbage as garbage_module
from gateway.server.garbage import (
    FULL_SECONDS_PER_BLOCK,
    GROWTH,
    MAX_YOUNG,
    MIN_FULL_SECONDS,
    YOUNG_SECONDS,
    GarbageCollector,
)
from tests.support.clock import SteppedClock
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Fewer than in a process, so that the tests need little memory.
MIN_GROWTH_BLOCKS = 200_000

IN_A_PROCESS = """
import asyncio, gc, weakref
from gateway.server.process import run

class Cycle:
    def __init__(self):
        self.itself = self

async def main():
    garbage = weakref.ref(Cycle())
    enabled = gc.isenabled()
    while garbage() is not None:
        await asyncio.sleep(0.01)
    return enabled

print(run(main()))
"""


class Cycle:
    """Garbage that only a collection frees, as soon as no one refers to it."""

    def __init__(self) -> None:
        self.itself = self


def garbage() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


async def grow_old(clock: SteppedClock, count: int) -> list[float]:
    """Return objects that survived a full collection, immediately after it."""
    many = [float(number) for number in range(count)]
    seen = await old_garbage(clock)
    while seen() is not None:
        await clock.advance(YOUNG_SECONDS)
    return many


async def old_garbage(clock: SteppedClock) -> weakref.ref[Cycle]:
    """Return garbage that only a full collection frees."""
    cycle = Cycle()
    await clock.advance(YOUNG_SECONDS)
    return weakref.ref(cycle)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SteppedClock]:
    """Return the clock of a running collector."""
    monkeypatch.setattr(garbage_module, "MIN_GROWTH_BLOCKS", MIN_GROWTH_BLOCKS)
    stepped = SteppedClock()
    task = asyncio.create_task(GarbageCollector(stepped).run())
    yield stepped
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    gc.unfreeze()
    gc.enable()


async def test_new_garbage_is_collected_within_a_period(clock: SteppedClock) -> None:
    new = garbage()
    await clock.advance(YOUNG_SECONDS)
    assert new() is None


async def test_a_burst_is_collected_after_its_end(clock: SteppedClock) -> None:
    burst: list[list[int]] = [[] for _ in range(MAX_YOUNG)]
    left = garbage()
    await clock.advance(YOUNG_SECONDS)
    assert left() is not None
    burst.clear()
    await clock.advance(YOUNG_SECONDS)
    assert left() is None


async def test_a_burst_that_stays_is_collected_after_a_minute(clock: SteppedClock) -> None:
    await grow_old(clock, 100_000)
    left, burst = garbage(), [[number] for number in range(MAX_YOUNG)]
    await clock.advance(MIN_FULL_SECONDS - YOUNG_SECONDS)
    assert left() is not None
    await clock.advance(2 * YOUNG_SECONDS)
    assert left() is None
    # Afterwards, new garbage is collected as before.
    new = garbage()
    await clock.advance(YOUNG_SECONDS)
    assert new() is None
    assert len(burst) == MAX_YOUNG


async def test_a_large_process_is_seldom_collected_fully(clock: SteppedClock) -> None:
    many = await grow_old(clock, 20_000)
    seen = await old_garbage(clock)
    await clock.advance(len(many) * FULL_SECONDS_PER_BLOCK / 2)
    assert seen() is not None
    # Soon after it has become small.
    many.clear()
    await clock.advance(MIN_FULL_SECONDS)
    assert seen() is None


async def test_garbage_does_not_delay_its_collection(clock: SteppedClock) -> None:
    many = await grow_old(clock, 20_000)
    seen = await old_garbage(clock)
    seconds = 0.0
    while seen() is not None:
        # More objects per second than the time between full collections allows for.
        many += [float(number) for number in range(20_000)]
        await clock.advance(20_000 * FULL_SECONDS_PER_BLOCK / 2)
        seconds += 20_000 * FULL_SECONDS_PER_BLOCK / 2
        assert seconds < 1_000
    assert len(many) < MIN_GROWTH_BLOCKS


async def test_a_process_that_grows_is_collected_fully(clock: SteppedClock) -> None:
    many = await grow_old(clock, MIN_GROWTH_BLOCKS)
    seen = await old_garbage(clock)
    many += [float(number) for number in range(MIN_GROWTH_BLOCKS)]
    await clock.advance(MIN_FULL_SECONDS)
    assert seen() is not None
    many += [float(number) for number in range(int(len(many) * GROWTH))]
    await clock.advance(2 * YOUNG_SECONDS)
    assert seen() is None


async def test_no_collection_visits_what_was_imported(clock: SteppedClock) -> None:
    imported = gc.get_freeze_count()
    burst = [[number] for number in range(MAX_YOUNG + 1)]
    await clock.advance(2 * MIN_FULL_SECONDS)
    assert gc.get_freeze_count() == imported
    assert len(burst) > MAX_YOUNG


def test_a_serving_process_collects_only_in_steps() -> None:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", IN_A_PROCESS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
