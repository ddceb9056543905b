"""The health of a store: one log line per change, a level for the metric, and a probe while it fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.clock import sleep_until
from gateway.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock

PROBE_SECONDS = 1.0

_log = structlog.get_logger()


class StoreHealth:
    """Tracks whether the last command of a store succeeded. Runs `probe` every second after a failure.

    `probe` raises `StateUnavailable`, and reports to this object like every other command.
    """

    def __init__(self, clock: Clock) -> None:
        self.available = True
        self._clock = clock
        self._probe: Callable[[], Awaitable[None]] | None = None
        self._probing: asyncio.Task[None] | None = None

    def probe_with(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Set the probe."""
        self._probe = probe

    def succeeded(self) -> None:
        """Take note of a command that succeeded."""
        if not self.available:
            self.available = True
            _log.info("state.available")

    def failed(self, why: str) -> None:
        """Take note of a command that failed; `why` holds no secret."""
        if self.available:
            self.available = False
            _log.warning("state.unavailable", why=why)
            if self._probe is not None:
                self._probing = asyncio.get_running_loop().create_task(self._probe_until_available(self._probe))

    async def _probe_until_available(self, probe: Callable[[], Awaitable[None]]) -> None:
        while not self.available:
            await sleep_until(self._clock, self._clock.monotonic() + PROBE_SECONDS)
            try:
                await probe()
            except StateUnavailable:
                continue

    def close(self) -> None:
        """Stop the probe."""
        if self._probing is not None:
            self._probing.cancel()
