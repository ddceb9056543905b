"""The pauses of an event loop, measured by a task that should run every millisecond."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

# The interval of the task. Shorter pauses are not measured.
CHECK_SECONDS = 0.001


async def report_pauses() -> None:
    """Write the longest pause since the last SIGUSR2, in seconds, to the file in BENCHMARK_PAUSES at each SIGUSR2."""
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
        await asyncio.sleep(CHECK_SECONDS)
        now = time.perf_counter()
        longest = max(longest, now - last - CHECK_SECONDS)
        last = now
