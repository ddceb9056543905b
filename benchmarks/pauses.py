"""The pauses of an event loop, measured by a task that should run every millisecond.

The CPU time of its thread does not depend on the load of the machine, but has no waits for other threads of the
process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

# The interval of the task. Shorter pauses are not measured.
CHECK_SECONDS = 0.001


async def report_pauses() -> None:
    """At each SIGUSR2, write the longest pause since the last one to the file in BENCHMARK_PAUSES.

    It is written twice, in seconds: as it passed, and in CPU time of this thread.
    """
    longest = longest_cpu = 0.0
    file = Path(os.environ["BENCHMARK_PAUSES"])

    def report() -> None:
        nonlocal longest, longest_cpu
        file.with_suffix(".new").write_text(f"{longest:.6f} {longest_cpu:.6f}")
        file.with_suffix(".new").rename(file)
        longest = longest_cpu = 0.0

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, report)
    last, last_cpu = time.perf_counter(), time.thread_time()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        now, now_cpu = time.perf_counter(), time.thread_time()
        longest = max(longest, now - last - CHECK_SECONDS)
        longest_cpu = max(longest_cpu, now_cpu - last_cpu)
        last, last_cpu = now, now_cpu
