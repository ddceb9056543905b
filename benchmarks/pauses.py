"""How long an event loop stood still, seen from within."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

# How often it is looked at, in seconds: what is shorter is no pause.
LOOK_SECONDS = 0.001


async def report_pauses() -> None:
    """On SIGUSR2, writes the longest pause in seconds since the last time to the file in BENCHMARK_PAUSES."""
    longest = 0.0
    file = Path(os.environ["BENCHMARK_PAUSES"])

    def report() -> None:
        nonlocal longest
        file.with_suffix(".new").write_text(f"{longest:.6f}")
        file.with_suffix(".new").rename(file)
        longest = 0.0

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, report)
    last = time.perf_counter()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.perf_counter()
        longest = max(longest, now - last - LOOK_SECONDS)
        last = now
