"""Threads for work that would block the event loop, and for work that may hang."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class WorkerPool:
    """A pool of `count` threads with a queue, first in, first out."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the threads. It continues if the awaiting task is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let the threads end. Work that was accepted is still done; new work raises `RuntimeError`."""
        self._pool.shutdown(wait=False)


class DaemonWorker:
    """A thread that runs one piece of work after the other. The process does not wait for it when it exits.

    The thread ends when its `DaemonWorker` is freed.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=_run_all, args=(self._work,), name=name, daemon=True).start()
        weakref.finalize(self, self._work.put, None).atexit = False

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work`; return a future of its outcome."""
        future: Future[T] = Future()
        self._work.put(partial(_run, future, work))
        return future

    def start(self, work: Callable[[], None]) -> None:
        """Queue `work`, which must not raise. A future would cost more than a short piece of work."""
        self._work.put(work)


def run_detached(name: str, work: Callable[[], T]) -> Future[T]:
    """Run `work` in a new daemon thread; return a future of its outcome.

    Raises:
        OSError: No thread can be started.
    """
    future: Future[T] = Future()
    try:
        threading.Thread(target=_run, args=(future, work), name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error
    return future


async def wait(future: Future[Any]) -> None:
    """Wait for a future of a thread. It is never cancelled."""
    if not future.done():
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _: _wake_from_thread(loop, woken))
        await woken


async def wait_done(future: Future[Any], seconds: float) -> bool:
    """Wait for a future of a thread for at most `seconds`; return whether it is done. It is never cancelled."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait(future)
    return future.done()


def leave_after(seconds: float, code: int) -> None:
    """End the process with `code` in `seconds`, even if something hangs, unless it has ended before."""

    def leave() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=leave, name="leave", daemon=True).start()


def _run_all(work: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (each := work.get()) is not None:
        each()
        # Otherwise this frame would keep the work alive while it waits.
        del each


def _run(future: Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - the future raises it
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        # The future holds the error, and the error holds this frame: without this, they would keep each other alive.
        del future, work


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _wake_from_thread(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
    # The event loop may have been closed while the work hung.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_wake, woken)
