"""Clients that do not read their stream, on a stepped clock."""

from __future__ import annotations

import pytest

from gateway.rpc.reader_guard import GRACE_SECONDS, MIN_BYTES_PER_SECOND, ReaderGuard
from tests.support.clock import SteppedClock


class Guarded:
    """A guard, and what it asks and does."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.contended = True
        self.given_up: list[float] = []
        self.guard = ReaderGuard(self.clock, lambda: self.contended, lambda: self.given_up.append(self.clock.now))
        self.began = self.clock.now

    async def write(self, seconds: float, size: int) -> None:
        self.guard.begin_write(self.clock.now)
        await self.clock.advance(seconds)
        self.guard.end_write(self.clock.now, size)

    def begin(self) -> None:
        self.began = self.clock.now
        self.guard.begin_write(self.began)

    @property
    def after(self) -> list[float]:
        """The seconds from the beginning of the last write to each time at which the guard gave up."""
        return [round(moment - self.began, 6) for moment in self.given_up]


@pytest.fixture
async def guarded() -> Guarded:
    return Guarded()


async def test_a_write_may_take_the_grace(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    guarded.begin()
    await guarded.clock.advance(GRACE_SECONDS - 0.1)
    assert guarded.given_up == []
    await guarded.clock.advance(0.2)
    assert guarded.after == [GRACE_SECONDS]


async def test_without_large_results_a_client_may_stop_reading(guarded: Guarded) -> None:
    guarded.begin()
    await guarded.clock.advance(3_600)
    assert guarded.given_up == []


async def test_the_grace_starts_with_the_large_result(guarded: Guarded) -> None:
    guarded.begin()
    await guarded.clock.advance(100)
    guarded.guard.hold(holds=True)
    guarded.guard.hold(holds=True)
    await guarded.clock.advance(GRACE_SECONDS + 1)
    assert guarded.after == [100 + GRACE_SECONDS]


async def test_memory_that_no_one_waits_for_is_kept(guarded: Guarded) -> None:
    guarded.contended = False
    guarded.guard.hold(holds=True)
    guarded.begin()
    await guarded.clock.advance(GRACE_SECONDS + 100.5)
    assert guarded.given_up == []
    guarded.contended = True
    await guarded.clock.advance(1)
    assert len(guarded.given_up) == 1


async def test_a_client_that_reads_at_the_least_rate_goes_on(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    for _ in range(1_000):
        await guarded.write(1.0, MIN_BYTES_PER_SECOND)
    assert guarded.given_up == []


async def test_a_client_below_the_least_rate_uses_up_its_grace(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    writes = 0
    while not guarded.given_up:
        await guarded.write(2.0, MIN_BYTES_PER_SECOND)
        writes += 1
    # Each write costs a second of the grace, and at the last one two are left.
    assert writes == GRACE_SECONDS - 1


async def test_a_pause_that_no_one_minded_does_not_count_later(guarded: Guarded) -> None:
    guarded.contended = False
    guarded.guard.hold(holds=True)
    await guarded.write(3_600.0, 0)
    guarded.contended = True
    await guarded.write(0.0, int(GRACE_SECONDS) * MIN_BYTES_PER_SECOND)
    guarded.begin()
    await guarded.clock.advance(GRACE_SECONDS + 1)
    assert guarded.after == [GRACE_SECONDS]


async def test_time_between_writes_is_not_the_client_s(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    for _ in range(100):
        await guarded.write(0.0, 100)
        await guarded.clock.advance(60)
    assert guarded.given_up == []


async def test_earlier_speed_buys_no_more_than_the_grace(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    await guarded.write(0.0, 1_000 * MIN_BYTES_PER_SECOND)
    guarded.begin()
    await guarded.clock.advance(GRACE_SECONDS + 1)
    assert guarded.after == [GRACE_SECONDS]


async def test_a_stream_without_large_results_gets_its_grace_back(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    await guarded.write(9.0, 0)
    guarded.guard.hold(holds=False)
    await guarded.write(50.0, 0)
    guarded.guard.hold(holds=True)
    guarded.begin()
    await guarded.clock.advance(GRACE_SECONDS + 1)
    assert guarded.after == [GRACE_SECONDS]


async def test_a_closed_guard_does_nothing(guarded: Guarded) -> None:
    guarded.guard.hold(holds=True)
    guarded.begin()
    guarded.guard.close()
    await guarded.clock.advance(3_600)
    assert guarded.given_up == []
    assert guarded.clock.pending == 0
