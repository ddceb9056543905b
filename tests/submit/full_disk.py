"""A store in a SQLite file whose disk becomes full and has room again. Prints the error, and fails if an id is lost.

    python -m tests.submit.full_disk tmpfs|limit FOLDER

`tmpfs` mounts a small disk at the folder, which needs the right to do so. `limit` limits the size of files.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.clock import SystemClock
from gateway.errors import StateUnavailable
from gateway.submit import Claim, IdempotencyKey, IdempotencyRecord, Outcome
from gateway.submit.health import StoreHealth
from gateway.submit.sqlite_store import SqliteIdempotencyStore
from tests.submit.stores import MARKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE = 1 << 20
# The part of the disk that another program takes.
TAKEN = 3 * SIZE // 4
MOST_CHANGES = 10_000
MARK = b"m" * 16
RECORD = IdempotencyRecord(MARK, Outcome(uid=7))


def claim_of(number: int) -> Claim:
    return Claim(IdempotencyKey(b"a" * 16, b"%016d" % number), number)


def fill_disk(folder: Path) -> Callable[[], None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)  # noqa: S603, S607 - fixed
    other = folder / "other"
    other.write_bytes(bytes(TAKEN))
    return other.unlink


def limit_files(_folder: Path) -> Callable[[], None]:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - TAKEN, most))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


async def count_until_full(change: Callable[[int], Awaitable[object]]) -> tuple[int, StateUnavailable]:
    for number in range(MOST_CHANGES):
        try:
            await change(number)
        except StateUnavailable as error:
            return number, error
    raise AssertionError("there is room")


async def main(kind: str, folder: Path) -> None:
    make_room = {"tmpfs": fill_disk, "limit": limit_files}[kind](folder)
    clock = SystemClock()
    store = SqliteIdempotencyStore(folder / "state.db", MARKS, clock, StoreHealth(clock))
    granted, error = await count_until_full(lambda number: store.claim(claim_of(number), MARK, 100.0))
    settled, _ = await count_until_full(lambda number: store.settle(claim_of(number), RECORD))
    sys.stdout.write(str(error))
    make_room()
    assert await store.settle(claim_of(settled), RECORD)
    await store.aclose()
    again = SqliteIdempotencyStore(folder / "state.db", MARKS, clock, StoreHealth(clock))
    seen = [await again.claim(Claim(claim_of(number).key, MOST_CHANGES), MARK, 100.0) for number in range(granted + 1)]
    assert seen == [RECORD] * (settled + 1) + [IdempotencyRecord(MARK)] * (granted - settled - 1) + [None]
    await again.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
