"""The longest pause of the event loop when 10,000 watchers are woken, next to a server that wakes them all together."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from benchmarks.processes import WITH_PAUSES, Process, gateway, server, upstream, watches
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable

WATCHERS = 10_000
TICK_SECONDS = 8.0


def run(*, quick: bool) -> list[Row]:
    """Measure the longest pause of some ticks."""
    watchers, rounds = (200, 1) if quick else (WATCHERS, 4)
    interval = {"poll_interval_min_seconds": TICK_SECONDS, "poll_interval_max_seconds": TICK_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (gateway_process, gateway_address),
        server("bare") as (bare, bare_address),
        watches(gateway_address, 1, 2, 1, watchers) as gateway_clients,
        watches(bare_address, 1, 2, 1, watchers) as bare_clients,
    ):
        # The gateway ticks with each poll, and the bare server with each SIGUSR1.
        measures: list[tuple[float, float]] = []
        for _ in range(rounds):
            gateway_pause = _longest_pause(gateway_process, gateway_clients, watchers, lambda: None)
            bare_pause = _longest_pause(bare, bare_clients, watchers, lambda: bare.signal(signal.SIGUSR1))
            measures.append((gateway_pause, bare_pause))
    # The comparison is strict: the worst tick of the gateway, and the best one of the bare server.
    gateway_ms, bare_ms = max(each for each, _ in measures), min(each for _, each in measures)
    return [
        Row(
            f"the longest pause when {watchers:,} watchers of one job are woken",
            gateway_ms,
            "ms",
            50,
            figures={"gateway ms": gateway_ms, "bare ms": bare_ms},
        )
    ]


def _longest_pause(measured: Process, clients: Process, watchers: int, tick: Callable[[], None]) -> float:
    """Return the longest pause until all watchers have the event of the next tick, in milliseconds of CPU time."""
    clients.ask("count")
    measured.longest_pause()
    tick()
    events = 0
    while events < watchers:
        time.sleep(0.5)
        events += int(clients.ask("count"))
    return measured.longest_pause().cpu_ms
