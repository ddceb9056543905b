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

from gateway.server.garbage import FULL_SECONDS_PER_BLOCK, MAX_YOUNG, MIN_FULL_SECONDS, YOUNG_SECONDS, GarbageCollector
from tests.support.clock import SteppedClock
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


@pytest.fixture
async def clock() -> AsyncIterator[SteppedClock]:
    """Return the clock of a running collector."""
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


async def test_a_burst_is_left_to_the_next_full_collection(clock: SteppedClock) -> None:
    burst: list[list[int]] = [[] for _ in range(MAX_YOUNG)]
    left = garbage()
    await clock.advance(YOUNG_SECONDS)
    assert left() is not None
    # It does not delay the collection of what is created afterwards.
    new = garbage()
    await clock.advance(YOUNG_SECONDS)
    assert (new() is None, left() is None) == (True, False)
    burst.clear()
    await clock.advance(MIN_FULL_SECONDS)
    assert left() is None


async def test_a_large_process_is_seldom_collected_fully(clock: SteppedClock) -> None:
    old = Cycle()
    seen = weakref.ref(old)
    await clock.advance(YOUNG_SECONDS)
    many = [float(number) for number in range(20_000)]
    del old
    await clock.advance(len(many) * FULL_SECONDS_PER_BLOCK / 2)
    assert seen() is not None
    # Soon after it has become small.
    many.clear()
    await clock.advance(MIN_FULL_SECONDS)
    assert seen() is None


def test_a_serving_process_collects_only_in_steps() -> None:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", IN_A_PROCESS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
