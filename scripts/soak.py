"""Judges the promises of a watch over random runs, for as long as you say, and tells what the runs met."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.rpc.codec import events
from tests.invariants.checks import PROMISES, violations
from tests.invariants.sockets import SocketRun
from tests.invariants.stepped import SteppedRun

STEPPED_STEPS, SOCKET_STEPS = 400, 150
# A run over sockets takes as long as many on the stepped clock.
STEPPED_RUNS_PER_SOCKET_RUN = 12


async def stepped(seed: int) -> SteppedRun:
    """One run on the stepped clock; its results are small, so that no thread is needed, and still in chunks."""
    events.CHUNK_BYTES = 40
    run = SteppedRun(seed)
    for _ in range(STEPPED_STEPS):
        await run.step()
    await run.finish()
    return run


async def over_sockets(seed: int) -> SocketRun:
    """One run over real sockets."""
    events.CHUNK_BYTES = 256 << 10
    run = SocketRun(seed)
    await run.start()
    for _ in range(SOCKET_STEPS):
        await run.step()
    await run.finish()
    return run


def main() -> None:
    """Runs seed after seed until the time is over or a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1_000, help="the first seed")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    ends = time.monotonic() + options.minutes * 60
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    seed = options.seed
    while time.monotonic() < ends:
        on_sockets = seed % (STEPPED_RUNS_PER_SOCKET_RUN + 1) == 0
        run = asyncio.run(over_sockets(seed)) if on_sockets else asyncio.run(stepped(seed))
        broken = violations(run.history)
        if broken:
            kind = "sockets" if on_sockets else "stepped"
            sys.exit(
                f"seed {seed} ({kind}) breaks {broken}\nreplay it: PROMISES_SEEDS={seed} or PROMISES_SOCKET_SEEDS={seed}"
            )
        history = run.history
        counts.update(
            {
                f"runs {'over sockets' if on_sockets else 'on the stepped clock'}": 1,
                "steps": run.steps,
                "watches": len(history.watches),
                "events": sum(len(watch.events) for watch in history.watches),
                "polls": len(history.polls),
            }
        )
        faults.update(run.faults)
        seed += 1
    print(f"seeds {options.seed} to {seed - 1}: {len(PROMISES)} checks, none broken")
    for name, count in [*sorted(counts.items()), *faults.most_common()]:
        print(f"{count:10,} {name}")


if __name__ == "__main__":
    main()
