"""The store `sqlite:`, a file on one machine that survives restarts. A thread keeps the event loop free of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from gateway.errors import ConfigError, GatewayError, StateUnavailable
from gateway.limits.fair_budget import Usage
from gateway.submit.sqlite_records import MAX_RECORDS, Change, Records, UnfitFile
from gateway.submit.store import KeyDiffers
from gateway.submit.variables import KEY_FILE, STATE_URL
from gateway.threads import DaemonWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.submit.health import StoreHealth
    from gateway.submit.records import Claim, IdempotencyRecord

T = TypeVar("T")

# The longest time that the start waits for the file, and that a command waits, in seconds.
START_SECONDS = 5.0
COMMAND_SECONDS = 5.0
# Commands that wait while the thread works go into one transaction, which needs one fsync.
MAX_BATCH = 256


class _Command(NamedTuple):
    change: Change
    future: asyncio.Future[object]


class SqliteIdempotencyStore:
    """A store of at most 1,400,000 records in a file, which several processes of one machine may share.

    Each of them has at least one of the keys with `marks`. Steps of the wall clock do not count while the process runs.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path, marks: Sequence[str], clock: Clock, health: StoreHealth) -> None:
        self._clock = clock
        self._health = health
        self._time_offset = clock.time() - clock.monotonic()
        self._thread = DaemonWorker("state")
        self._waiting: list[_Command] = []
        self._busy = False
        self._records = _open(self._thread, path, marks, clock.time())
        health.probe_with(self._probe)

    @property
    def usage(self) -> Usage:
        """See `CountedStore`."""
        return Usage(self._records.count, MAX_RECORDS)

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """See `IdempotencyStore`."""
        work = partial(Records.claim, claim=claim, fingerprint=fingerprint, seconds=seconds)
        return cast("IdempotencyRecord | None", await self._run(work, durable=True))

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore`."""
        return bool(await self._run(partial(Records.renew, claim=claim, seconds=seconds)))

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore`."""
        return bool(await self._run(partial(Records.settle, claim=claim, record=record)))

    async def release(self, claim: Claim) -> bool:
        """See `IdempotencyStore`."""
        return bool(await self._run(partial(Records.release, claim=claim)))

    async def _probe(self) -> None:
        await self._run(Records.probe, durable=True)

    async def aclose(self) -> None:
        """See `IdempotencyStore`."""
        done = self._thread.run(self._records.close)
        await asyncio.wait([asyncio.wrap_future(done)], timeout=COMMAND_SECONDS)

    async def _run(self, work: Callable[[Records, float], object], *, durable: bool = False) -> object:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        command = _Command(Change(work, durable), future)
        self._waiting.append(command)
        if not self._busy:
            self._run_batch()
        timer = self._clock.call_at(self._clock.monotonic() + COMMAND_SECONDS, partial(_give_up, future))
        try:
            result = await future
        except StateUnavailable as error:
            # While the disk hangs, commands that no one waits for any more would pile up.
            with contextlib.suppress(ValueError):
                self._waiting.remove(command)
            self._health.failed(str(error))
            raise
        finally:
            timer.cancel()
        if isinstance(result, KeyDiffers):
            self._health.key_differs()
        if isinstance(result, GatewayError):
            raise result
        return result

    def _run_batch(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._busy = True
        now = self._time_offset + self._clock.monotonic()
        self._thread.start(partial(self._work, asyncio.get_running_loop(), batch, now))

    def _work(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Command], now: float) -> None:
        try:
            outcome: list[object] | BaseException = self._records.run([command.change for command in batch], now)
        except BaseException as error:  # noqa: BLE001 - the commands raise it
            outcome = error
        # The loop may be closed while the disk hangs.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end_batch, batch, outcome)

    def _end_batch(self, batch: Sequence[_Command], outcome: list[object] | BaseException) -> None:
        self._busy = False
        if self._waiting:
            self._run_batch()
        if isinstance(outcome, BaseException):
            for command in batch:
                if not command.future.done():
                    command.future.set_exception(_unavailable(outcome))
            return
        for command, result in zip(batch, outcome, strict=True):
            if not command.future.done():
                command.future.set_result(result)


def _give_up(future: asyncio.Future[object]) -> None:
    if not future.done():
        future.set_exception(
            StateUnavailable(
                f"request_id: its store did not respond within {COMMAND_SECONDS:g} s, and nothing was sent; retry "
                "later, or send a first attempt without one"
            )
        )


def _unavailable(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error):
        return StateUnavailable(
            f"request_id: its store cannot be used ({error}), and nothing was sent; retry later, or send a first "
            "attempt without one"
        )
    return error


def _open(thread: DaemonWorker, path: Path, marks: Sequence[str], now: float) -> Records:
    try:
        return thread.run(lambda: Records(path, marks, now)).result(START_SECONDS)
    except KeyDiffers:
        raise ConfigError(
            f"{KEY_FILE}: {path} has request ids of another key; restore that key, add it as a second line for 25 "
            "hours, or delete the database to forget its request ids"
        ) from None
    except OSError as error:
        why = error.strerror or str(error)
    except (sqlite3.Error, UnfitFile) as error:
        why = str(error)
    except TimeoutError:
        why = f"no response within {START_SECONDS:g} s"
    raise ConfigError(f"{STATE_URL}: {path} cannot be used: {why}")
