"""The health of a store: one log line per change, a level for the metric, and a probe while it fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from gateway.clock import sleep_until
from gateway.errors import StateUnavailable
from gateway.submit.variables import KEY_FILE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock

PROBE_SECONDS = 1.0
KEY_FIX = (
    "use the same key file on all gateways; to change the key, add the old one as a second line for 25 hours; to "
    "forget the ids of the old key, see docs/operations/request-ids.md"
)

_log = structlog.get_logger()


class StoreHealth:
    """Tracks whether a store can be used: after a failed command not, until a probe succeeds.

    Other commands that succeed prove nothing, because a full or read-only store still does those that change nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self.available = True
        self._key_differs = False
        self._clock = clock
        self._probe: Callable[[], Awaitable[None]] | None = None
        self._probing: asyncio.Task[None] | None = None

    def probe_with(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Set the probe, which writes something and raises `StateUnavailable` if that fails."""
        self._probe = probe

    def failed(self, why: str) -> None:
        """Take note of a command that failed; `why` holds no secret."""
        if self.available:
            _log.warning("state.unavailable", why=why)
            self._probe_from_now_on()

    def key_differs(self) -> None:
        """Take note that the store is in use with other keys."""
        if not self._key_differs:
            self._key_differs = True
            _log.error("state.key_differs", setting=KEY_FILE, fix=KEY_FIX)
        if self.available:
            self._probe_from_now_on()

    def _probe_from_now_on(self) -> None:
        self.available = False
        if self._probe is not None:
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_available(self._probe))

    async def _probe_until_available(self, probe: Callable[[], Awaitable[None]]) -> None:
        while not self.available:
            await sleep_until(self._clock, self._clock.monotonic() + PROBE_SECONDS)
            with contextlib.suppress(StateUnavailable):
                await probe()
                self.available = True
        self._key_differs = False
        _log.info("state.available")

    def close(self) -> None:
        """Stop the probe."""
        if self._probing is not None:
            self._probing.cancel()
