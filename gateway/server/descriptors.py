"""Detect that the process has no free file descriptor, because a listener that cannot accept reports nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.clock import sleep_until
from gateway.upstream.shortage import ShortageLog, shortage_in

if TYPE_CHECKING:
    from gateway.clock import Clock

CHECK_SECONDS = 5.0


async def log_shortages(clock: Clock) -> None:
    """Log a shortage of file descriptors while it lasts, until this is cancelled."""
    log = ShortageLog(clock.monotonic)
    while True:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if (shortage := shortage_in(error)) is not None:
                log.write(shortage)
        await sleep_until(clock, clock.monotonic() + CHECK_SECONDS)
