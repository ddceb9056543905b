"""The store in a SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import ConfigError, StateUnavailable
from gateway.submit import Claim, IdempotencyKey, IdempotencyRecord, Outcome, sqlite_records
from gateway.submit.health import StoreHealth
from gateway.submit.sqlite_store import COMMAND_SECONDS, SqliteIdempotencyStore
from tests.submit.stores import MARKS
from tests.support.clock import SteppedClock
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MARK = b"m" * 32


def claim_of(number: int) -> Claim:
    return Claim(IdempotencyKey(b"a" * 16, b"%016d" % number), number)


async def take(store: SqliteIdempotencyStore, number: int) -> IdempotencyRecord | None:
    return await store.claim(claim_of(number), MARK, 100.0)


async def take_all(store: SqliteIdempotencyStore, numbers: range) -> None:
    for number in numbers:
        await take(store, number)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * (path.stat().st_size - 100))


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def open_store(path: Path, clock: SteppedClock) -> AsyncIterator[Callable[[], SqliteIdempotencyStore]]:
    opened: list[tuple[SqliteIdempotencyStore, StoreHealth]] = []

    def open_one() -> SqliteIdempotencyStore:
        health = StoreHealth(clock)
        store = SqliteIdempotencyStore(path, MARKS, clock, health)
        opened.append((store, health))
        return store

    yield open_one
    for store, health in opened:
        health.close()
        await store.aclose()


async def test_records_survive_a_restart_in_files_of_mode_0600(
    path: Path, open_store: Callable[[], SqliteIdempotencyStore]
) -> None:
    store = open_store()
    await take(store, 1)
    record = IdempotencyRecord(MARK, Outcome(uid=7))
    await store.settle(claim_of(1), record)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    again = open_store()
    assert await again.claim(Claim(claim_of(1).key, 2), MARK, 100.0) == record


async def test_a_full_disk_fails_clearly_and_recovers(
    clock: SteppedClock, open_store: Callable[[], SqliteIdempotencyStore], logged: list[dict[str, object]]
) -> None:
    store = open_store()
    database = store._records._database  # noqa: SLF001 - the disk of this test
    database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StateUnavailable, match=r"cannot be used \(database or disk is full\), and nothing was sent"):
        await take_all(store, range(1_000))
    for number in range(2_000, 2_005):
        # Done in the background, and changes nothing.
        await store.release(claim_of(number))
        with pytest.raises(StateUnavailable):
            await take(store, number)
    database.execute("PRAGMA max_page_count = 1000000")
    health: Any = store._health  # noqa: SLF001 - as above
    assert not health.available
    assert (logged[0]["event"], logged[0]["log_level"]) == ("state.unavailable", "warning")
    while not health.available:
        await clock.advance(1.0)
        await asyncio.sleep(0.001)
    assert logged[-1]["event"] == "state.available"
    assert len(logged) == 2
    assert await take(store, 5_000) is None


def fill(kind: str, folder: Path, *wrapper: str) -> subprocess.CompletedProcess[str]:
    command = [*wrapper, sys.executable, "-m", "tests.submit.full_disk", kind, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own code


def test_a_disk_that_is_really_full_loses_no_id(tmp_path: Path) -> None:
    unshare = ("unshare", "--map-root-user", "--mount")
    probe = subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=False, capture_output=True)  # noqa: S603 - fixed
    if probe.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    done = fill("tmpfs", tmp_path, *unshare)
    assert done.returncode == 0, done.stderr
    assert "cannot be used (database or disk is full), and nothing was sent" in done.stdout


def test_a_file_that_may_not_grow_loses_no_id(tmp_path: Path) -> None:
    done = fill("limit", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot be used (disk I/O error), and nothing was sent" in done.stdout


async def test_a_read_only_file_fails_clearly(open_store: Callable[[], SqliteIdempotencyStore]) -> None:
    store = open_store()
    store._records._database.execute("PRAGMA query_only = 1")  # noqa: SLF001 - the disk of this test
    with pytest.raises(StateUnavailable, match="attempt to write a readonly database"):
        await take(store, 1)


def start(path: Path, *, user: int | None = None) -> str:
    """Return the message with which a process fails to open a store."""
    code = (
        "import sys, pathlib\n"
        "from gateway.clock import SystemClock\n"
        "from gateway.errors import ConfigError\n"
        "from gateway.submit.health import StoreHealth\n"
        "from gateway.submit.sqlite_store import SqliteIdempotencyStore\n"
        "import asyncio\n"
        f"{'' if user is None else f'import os; os.setgroups([]); os.setgid({user}); os.setuid({user})'}\n"
        "async def main():\n"
        "    clock = SystemClock()\n"
        f"    SqliteIdempotencyStore(pathlib.Path({str(path)!r}), {MARKS}, clock, StoreHealth(clock))\n"
        "try:\n    asyncio.run(main())\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_of_another_user_stops_the_start(path: Path) -> None:
    assert start(path) == ""
    for folder in (path.parent, *path.parent.parents):
        if str(folder) != "/":
            folder.chmod(folder.stat().st_mode | 0o055)
    assert start(path, user=65_534) == f"JOBGATEWAY_STATE_URL: {path} cannot be used: Permission denied"
    path.chmod(0o644)
    assert start(path, user=65_534) == f"JOBGATEWAY_STATE_URL: {path} cannot be used: Permission denied"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no database, but more than 16 bytes" * 100, "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "file is not a database|malformed|unable to open"),
    ],
)
def test_a_corrupt_file_stops_the_start(path: Path, clock: SteppedClock, content: bytes, why: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as raised:
        SqliteIdempotencyStore(path, MARKS, clock, StoreHealth(clock))
    assert str(raised.value).startswith(f"JOBGATEWAY_STATE_URL: {path} cannot be used: ")


def test_a_database_of_another_program_is_not_touched(path: Path, clock: SteppedClock) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (id)")
    database.close()
    with pytest.raises(ConfigError, match="a database of another program"):
        SqliteIdempotencyStore(path, MARKS, clock, StoreHealth(clock))


def test_a_database_of_a_newer_version_is_named_as_such(path: Path, clock: SteppedClock) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA application_id = {sqlite_records.APPLICATION_ID}")
        database.execute("CREATE TABLE records_of_2030 (id)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a database of a newer version of the gateway; start that version"):
        SqliteIdempotencyStore(path, MARKS, clock, StoreHealth(clock))
    assert path.read_bytes() == before


def test_gateways_that_start_at_the_same_moment_make_one_file(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.db"
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda _, path=path: sqlite_records.Records(path, MARKS, 0.0), range(8)))
        for each in opened:
            each.close()


def test_a_kill_while_the_file_is_created_leaves_a_usable_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = sqlite_records._SCHEMA  # noqa: SLF001 - a kill between two statements
    monkeypatch.setattr(sqlite_records, "_SCHEMA", (*schema[:2], "a kill"))
    with pytest.raises(sqlite3.OperationalError):
        sqlite_records.Records(path, MARKS, 0.0)
    monkeypatch.undo()
    sqlite_records.Records(path, MARKS, 0.0).close()


def test_a_missing_folder_stops_the_start(tmp_path: Path, clock: SteppedClock) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/state.db cannot be used: No such file or directory"):
        SqliteIdempotencyStore(tmp_path / "nowhere" / "state.db", MARKS, clock, StoreHealth(clock))


async def test_a_file_that_is_damaged_while_in_use_fails_clearly(
    path: Path, open_store: Callable[[], SqliteIdempotencyStore]
) -> None:
    store = open_store()
    for number in range(50):
        await take(store, number)
    store._records._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - the disk of this test
    damage(path)
    store._records._database.execute("PRAGMA shrink_memory")  # noqa: SLF001 - as above
    with pytest.raises(StateUnavailable, match=r"malformed|not a database|disk I/O"):
        await take_all(store, range(100, 200))


async def test_a_file_that_another_process_locks_fails_after_a_while(
    path: Path, open_store: Callable[[], SqliteIdempotencyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "BUSY_SECONDS", 0.01)
    store = open_store()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailable, match="database is locked"):
        await take(store, 1)
    other.execute("ROLLBACK")
    other.close()
    assert await take(store, 1) is None


async def test_commands_that_a_hung_disk_delays_are_given_up(
    clock: SteppedClock, open_store: Callable[[], SqliteIdempotencyStore]
) -> None:
    store = open_store()
    disk = threading.Event()
    hung = store._thread.run(disk.wait)  # noqa: SLF001 - the disk of this test
    for number in range(10):
        call = asyncio.create_task(take(store, number))
        await clock.advance(COMMAND_SECONDS)
        with pytest.raises(StateUnavailable, match="did not respond within 5 s"):
            await call
    assert len(store._waiting) <= 1, "the probe"  # noqa: SLF001 - a look inside
    disk.set()
    assert hung.result()
    # Only the first one had begun.
    results = [await store.claim(Claim(claim_of(number).key, 99), MARK, 100.0) for number in range(10)]
    assert results == [IdempotencyRecord(MARK), *[None] * 9]


async def test_commands_that_arrive_together_share_a_transaction(
    open_store: Callable[[], SqliteIdempotencyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    sizes: list[int] = []
    run = sqlite_records.Records.run

    def counted(self: sqlite_records.Records, changes: list[sqlite_records.Change], now: float) -> list[object]:
        sizes.append(len(changes))
        return run(self, changes, now)

    monkeypatch.setattr(sqlite_records.Records, "run", counted)
    assert await asyncio.gather(*(take(store, number) for number in range(100))) == [None] * 100
    assert sizes == [1, 99]


async def test_expired_records_are_deleted_in_slices(
    clock: SteppedClock, open_store: Callable[[], SqliteIdempotencyStore]
) -> None:
    store = open_store()
    await asyncio.gather(*(take(store, number) for number in range(20)))
    clock.now += 26 * 3600
    left = []
    for number in range(200, 205):
        await take(store, number)
        left.append(store._records._one("SELECT count(*) FROM records")[0])  # noqa: SLF001 - a look inside
    assert left == [13, 6, 3, 4, 5]
    assert store._records._one("SELECT ids FROM held WHERE caller = x''")[0] == 5  # noqa: SLF001 - as above


async def test_a_step_of_the_wall_clock_changes_nothing(
    clock: SteppedClock, open_store: Callable[[], SqliteIdempotencyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    await take(store, 1)
    for step in (-(10**6), 10**6):
        monkeypatch.setattr(clock, "time", lambda step=step: 1_700_000_000.0 + step)
        assert await store.claim(Claim(claim_of(1).key, 2), MARK, 100.0) == IdempotencyRecord(MARK)
