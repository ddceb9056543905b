"""The gateway like `jobgateway serve`, plus a task that measures the pauses of its event loop.

python -m benchmarks.servers.gateway
"""

from __future__ import annotations

import asyncio

from benchmarks.pauses import report_pauses
from gateway.config import load
from gateway.server.process import run, serve


async def main() -> None:
    """Serve until the process is stopped."""
    measuring = asyncio.create_task(report_pauses())
    try:
        await serve(load())
    finally:
        measuring.cancel()


run(main())
