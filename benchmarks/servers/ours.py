"""The gateway as `jobgateway serve` runs it, with an eye on its event loop beside it.

    python -m benchmarks.servers.ours

Its settings are those of `serve`.
"""

from __future__ import annotations

import asyncio

from benchmarks.pauses import report_pauses
from gateway.config import load
from gateway.server.process import run, serve


async def main() -> None:
    """Serves until it is stopped."""
    watching = asyncio.create_task(report_pauses())
    try:
        await serve(load())
    finally:
        watching.cancel()


run(main())
