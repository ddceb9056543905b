"""A 50 MB result to 1 and to 5 watchers: MB/s beside bare chunks, peak memory, the longest pause of the event loop."""

from __future__ import annotations

import time

from benchmarks.processes import Process, gateway, process, server, upstream
from benchmarks.table import Row, interleaved

SIZE = 50_000_000


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    rounds = 1 if quick else 3
    rows = []
    for watchers in (1, 5):
        growth = pause = 0.0
        with server("bare") as (bare, bare_address), upstream(SIZE) as (_, url):

            def fresh() -> float:
                nonlocal growth, pause
                # A new process each time, for the peak of its memory.
                with gateway(url) as (ours, address):
                    before = ours.memory()
                    ours.longest_pause()
                    rate = _rate(ours, address, 42, watchers)
                    pause = max(pause, ours.longest_pause() * 1000)
                    growth = max(growth, (ours.peak_memory() - before) / SIZE)
                    return rate

            seen = interleaved(rounds, {"ours": fresh, "bare": lambda: _rate(bare, bare_address, -SIZE, watchers)})
        what = f"a 50 MB result to {watchers}"
        figures = {f"{name} MB/s": value for name, value in seen.items()}
        rows += [
            Row(
                f"{what}: MB/s beside bare chunks",
                seen["ours"] / seen["bare"],
                "x",
                0.8,
                at_least=True,
                figures=figures,
            ),
            Row(f"{what}: peak memory over its size", growth, "x", 2.5),
            Row(f"{what}: the longest pause", pause, "ms", 50),
        ]
    return rows


def _rate(_: Process, address: str, uid: int, watchers: int) -> float:
    clients = [process("benchmarks.chunks", address, uid) for _ in range(watchers)]
    began = time.perf_counter()
    answers = [each.__enter__() for each in clients]
    seconds = []
    for each in answers:
        took, size = each.answer().split()
        if int(size) < SIZE:
            raise RuntimeError(f"only {size} bytes came")
        seconds.append(float(took))
    del began
    return SIZE / 1e6 / (sum(seconds) / len(seconds))
