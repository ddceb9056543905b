"""Check the watch promises over random runs for some minutes, and print the numbers of events and faults."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.rpc.codec import events
from tests.invariants.checks import PROMISES, violations
from tests.invariants.history import History
from tests.invariants.multiplexed import MULTIPLEXED
from tests.invariants.multiplexed import violations as violations_of_streams
from tests.invariants.multiplexed_sockets import MultiplexedSocketRun
from tests.invariants.multiplexed_stepped import MultiplexedRun
from tests.invariants.sockets import SocketRun
from tests.invariants.stepped import SteppedRun

STEPPED_STEPS, SOCKET_STEPS = 400, 150
# A run over sockets takes as long as many on the stepped clock.
STEPPED_RUNS_PER_SOCKET_RUN = 12


async def stepped(seed: int) -> SteppedRun:
    """Make a run on the stepped clock."""
    # Results that are small, so that they need no thread, but still have several chunks.
    events.CHUNK_BYTES = 40
    kinds = (SteppedRun, MultiplexedRun, partial(MultiplexedRun, paced=True))
    run = kinds[seed % len(kinds)](seed)
    for _ in range(STEPPED_STEPS):
        await run.step()
    await run.finish()
    return run


async def over_sockets(seed: int) -> SocketRun:
    """Make a run over real sockets."""
    events.CHUNK_BYTES = 256 << 10
    run = (SocketRun, MultiplexedSocketRun)[seed // (STEPPED_RUNS_PER_SOCKET_RUN + 1) % 2](seed)
    await run.start()
    for _ in range(SOCKET_STEPS):
        await run.step()
    await run.finish()
    return run


def _broken(run: SteppedRun | SocketRun) -> dict[str, str]:
    if isinstance(run, MultiplexedRun | MultiplexedSocketRun):
        return violations_of_streams(run.streams, run.history)
    return violations(run.history)


def _counts(history: History) -> dict[str, int]:
    return {
        "watches": len(history.watches),
        "events": sum(len(watch.events) for watch in history.watches),
        "polls": len(history.polls),
    }


def main() -> None:
    """Run seed after seed, until the time is over or a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1_000, help="the first seed")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    end = time.monotonic() + options.minutes * 60
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    seed = options.seed
    while time.monotonic() < end:
        on_sockets = seed % (STEPPED_RUNS_PER_SOCKET_RUN + 1) == 0
        run = asyncio.run(over_sockets(seed)) if on_sockets else asyncio.run(stepped(seed))
        if broken := _broken(run):
            variable = "PROMISES_SOCKET_SEEDS" if on_sockets else "PROMISES_SEEDS"
            sys.exit(f"seed {seed}: breaks {broken}; to replay it, run the tests with {variable}={seed}")
        counts.update(_counts(run.history))
        counts.update({"steps": run.steps, f"runs {'over sockets' if on_sockets else 'on the stepped clock'}": 1})
        faults.update(run.faults)
        seed += 1
    print(f"seeds {options.seed} to {seed - 1}: {len(PROMISES) + len(MULTIPLEXED)} checks, none broken")
    for name, count in [*sorted(counts.items()), *faults.most_common()]:
        print(f"{count:10,} {name}")


if __name__ == "__main__":
    main()
