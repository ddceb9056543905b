"""Tests of work in daemon threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from gateway.threads import DaemonWorker, WorkerPool, run_detached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


class Held:
    """An object that the work refers to when it fails."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def in_a_daemon(work: Callable[[], None]) -> Future[None]:
    daemon = DaemonWorker("test")
    future = daemon.run(work)
    # When the second piece ends, the thread has left the first.
    daemon.run(bool).result()
    return future


def in_a_thread(work: Callable[[], None]) -> Future[None]:
    future = run_detached("test", work)
    future.exception()
    return future


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("run", [in_a_thread, in_a_daemon])
def test_a_failure_is_freed_with_its_future(run: Callable[[Callable[[], None]], Future[None]]) -> None:
    freed: list[object] = []

    def fail() -> None:
        held = Held()
        weakref.finalize(held, freed.append, 1)
        raise OSError("no")

    future = run(fail)
    assert isinstance(future.exception(), OSError)
    assert freed == []
    del future
    while not freed and any(each.name == "test" for each in threading.enumerate()):
        pass
    assert freed


async def test_a_closed_pool_finishes_its_work() -> None:
    pool = WorkerPool("test", 1)
    go_on = threading.Event()
    accepted = asyncio.create_task(pool.run(go_on.wait))
    await asyncio.sleep(0)
    pool.close()
    go_on.set()
    assert await accepted
    with pytest.raises(RuntimeError):
        await pool.run(bool)
