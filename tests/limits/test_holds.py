"""Holds of one gateway."""

from gateway.limits.holds import MAX_HOLD_SECONDS, Holds
from tests.support.clock import SteppedClock

ANN, BOB = b"ann", b"bob"


async def test_a_hold_ends_by_itself_and_only_grows() -> None:
    clock = SteppedClock()
    holds = Holds(clock)
    holds.begin(ANN, 60)
    holds.begin(ANN, 5)
    assert (holds.remaining(ANN), holds.remaining(BOB)) == (60, 0)
    await clock.advance(61)
    assert holds.remaining(ANN) == 0
    holds.begin(BOB, 5)
    assert holds.until(ANN) == 0, "holds that are over take no memory"


async def test_only_longer_holds_are_shared_and_none_twice() -> None:
    holds = Holds(SteppedClock())
    shared: list[tuple[bytes, float]] = []
    holds.share = lambda credential, seconds: shared.append((credential, seconds))
    holds.begin(ANN, 60)
    holds.begin(ANN, 30)
    holds.follow({BOB: 60})
    holds.begin(BOB, 60)
    holds.begin(ANN, 86_400)
    assert shared == [(ANN, 60), (ANN, MAX_HOLD_SECONDS)]
