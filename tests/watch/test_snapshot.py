"""The snapshot of a poll loop."""

from __future__ import annotations

from gateway.errors import UpstreamConnectionLost
from gateway.watch import WatchKey
from tests.support.clock import SteppedClock, settle
from tests.support.polling import FakePoller, Hang, State, make_hub

ANN = WatchKey(b"ann", 42)


async def test_a_snapshot_has_the_state_and_the_watchers() -> None:
    clock = SteppedClock()
    hub = make_hub(clock)
    with hub.watch(ANN, FakePoller(clock, State(1)), client=b"one"):
        await settle()
        with hub.watch(ANN, FakePoller(clock), client=b"two"), hub.watch(ANN, FakePoller(clock), client=b"two"):
            (loop,) = hub.loops
            seen = loop.snapshot()
    assert (seen.key, seen.state, seen.began) == (ANN, State(1), 1_000.0)
    assert (seen.watchers, seen.clients) == (3, frozenset({b"one", b"two"}))
    assert seen.next_poll is not None
    assert seen.next_poll > clock.now
    assert (seen.failures, seen.last_failure) == (0, None)
    assert hub.loops == ()


async def test_a_snapshot_has_the_failures() -> None:
    clock = SteppedClock()
    hub = make_hub(clock)
    lost = UpstreamConnectionLost("lost")
    with hub.watch(ANN, FakePoller(clock, lost, lost, Hang)):
        await clock.advance(60)
        seen = hub.loops[0].snapshot()
    assert (seen.state, seen.failures, seen.last_failure) == (None, 2, lost)
    assert seen.next_poll is None
