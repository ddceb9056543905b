"""The fixture that fails a test if one of its tasks died without a word."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import LostErrors


async def test_a_task_that_dies_unnoticed_is_reported(lost_errors: LostErrors) -> None:
    async def die() -> None:
        raise ValueError("died")

    task = asyncio.create_task(die())
    await asyncio.wait([task])
    del task
    gc.collect()
    [report] = lost_errors.take()
    assert "never retrieved" in report
    assert "ValueError: died" in report
