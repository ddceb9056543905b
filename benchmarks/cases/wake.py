"""All watchers woken by one tick: how long the event loop stands still, beside one that wakes them all at once."""

from __future__ import annotations

import signal
import time

from benchmarks.processes import Process, gateway, server, upstream, watches
from benchmarks.table import Row

WATCHERS = 10_000
TICK_SECONDS = 8.0


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    watchers, rounds = (200, 1) if quick else (WATCHERS, 4)
    interval = {"poll_interval_min_seconds": TICK_SECONDS, "poll_interval_max_seconds": TICK_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, **interval) as (ours, our_address),
        server("bare") as (bare, bare_address),
        watches(our_address, 1, 2, 1, watchers) as our_clients,
        watches(bare_address, 1, 2, 1, watchers) as bare_clients,
    ):

        def ticked(measured: Process, clients: Process) -> float:
            events = 0
            while events < watchers:
                time.sleep(0.5)
                events += int(clients.ask("count"))
            return measured.longest_pause() * 1000

        def our_tick() -> float:
            our_clients.ask("count")
            ours.longest_pause()
            return ticked(ours, our_clients)

        def bare_tick() -> float:
            bare_clients.ask("count")
            bare.longest_pause()
            bare.signal(signal.SIGUSR1)
            return ticked(bare, bare_clients)

        seen = [(our_tick(), bare_tick()) for _ in range(rounds)]
    # A pause is as long as the longest one: of ours the worst tick counts, and of the bare ones the best.
    ours_ms, bare_ms = max(mine for mine, _ in seen), min(other for _, other in seen)
    return [
        Row(
            f"the longest pause when {watchers:,} watchers of one job are woken",
            ours_ms,
            "ms",
            50,
            figures={"ours ms": ours_ms, "bare ms": bare_ms},
        )
    ]
