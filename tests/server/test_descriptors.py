"""The warning about a shortage of file descriptors."""

from __future__ import annotations

import asyncio

from gateway.server.descriptors import CHECK_SECONDS, log_shortages
from tests.support.clock import SteppedClock
from tests.support.descriptors import no_more_files


async def test_a_shortage_of_files_is_logged_while_it_lasts(logged: list[dict[str, object]]) -> None:
    clock = SteppedClock()
    watching = asyncio.create_task(log_shortages(clock))
    await clock.advance(CHECK_SECONDS)
    assert logged == []
    with no_more_files():
        await clock.advance(6 * CHECK_SECONDS)
    lines = [(line["event"], line["shortage"], line["log_level"]) for line in logged]
    assert lines == [("gateway.overloaded", "EMFILE", "error")] * 3, "at most one in ten seconds"
    await clock.advance(6 * CHECK_SECONDS)
    assert len(logged) == len(lines)
    watching.cancel()
