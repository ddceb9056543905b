"""Records in a SQLite file. Everything here blocks, and runs in one thread (see `sqlite_store`)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from gateway.limits.fair_budget import FAIR_SHARE_FACTOR, fits_fair_share
from gateway.submit.records import OWNER_LOST, IdempotencyRecord, decode, encode
from gateway.submit.store import KEEP_RECORD_SECONDS, KeyDiffers, exhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gateway.submit.records import Claim

# One caller may hold three quarters, which is more than a million.
MAX_RECORDS = 1_400_000
# Expired records that one claim deletes, which adds one. Many claims share a transaction, and each deletion changes a
# page of its own: with 64, a million expired records would make the transactions take longer than `COMMAND_SECONDS`.
PRUNE_SLICE = 8
# The pause after a slice that was not full, in seconds.
PRUNE_SECONDS = 1.0
# The longest wait for another process that writes to the same file.
BUSY_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 0.01
# "JGW1", so that no other program's file is taken.
APPLICATION_ID = 0x4A475731

_SCHEMA = (
    "CREATE TABLE records (caller BLOB NOT NULL, request BLOB NOT NULL, fence INTEGER NOT NULL, "
    "fingerprint BLOB NOT NULL, claimed_until REAL NOT NULL, expires REAL NOT NULL, outcome BLOB, "
    "PRIMARY KEY (caller, request)) WITHOUT ROWID",
    "CREATE INDEX records_by_expiry ON records (expires)",
    "CREATE TABLE held (caller BLOB PRIMARY KEY, ids INTEGER NOT NULL) WITHOUT ROWID",
    # The keys of each gateway that claimed ids, as their marks, and the time at which these ids have expired.
    "CREATE TABLE keys (marks TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
_TABLES = {"records", "held", "keys"}
# Triggers count the ids of each caller and of all. They are temporary, because older versions count without them.
_TRIGGERS = (
    # There may be no folder for temporary files.
    "PRAGMA temp_store = MEMORY",
    "CREATE TEMP TRIGGER added AFTER INSERT ON main.records BEGIN "
    "INSERT INTO held VALUES (new.caller, 1), (x'', 1) ON CONFLICT (caller) DO UPDATE SET ids = ids + 1; END",
    "CREATE TEMP TRIGGER deleted AFTER DELETE ON main.records BEGIN "
    "UPDATE held SET ids = ids - 1 WHERE caller IN (old.caller, x''); "
    "DELETE FROM held WHERE caller = old.caller AND ids <= 0; END",
)
_HELD = "SELECT ids FROM held WHERE caller"
# Adds a record with less than its fair share, in one statement, because each one costs a turn of the interpreter.
_CLAIM = f"""
INSERT INTO records SELECT ?1, ?2, ?3, ?4, ?5, ?6, NULL
WHERE ifnull(({_HELD} = ?1), 0) + 1 <= {FAIR_SHARE_FACTOR} * (?7 - ifnull(({_HELD} = x''), 0) - 1)
ON CONFLICT DO NOTHING
"""
# The ids of the caller and of all, and the record.
_LOOK = f"""
SELECT ({_HELD} = ?1), ({_HELD} = x''), expires, fence, fingerprint, claimed_until, outcome
FROM (SELECT 1) LEFT JOIN records ON caller = ?1 AND request = ?2
"""  # noqa: S608 - constants
_ADD = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"
_OF_KEY = "WHERE caller = ? AND request = ?"
_OWN = f"{_OF_KEY} AND fence = ? AND outcome IS NULL"
_DELETE = f"DELETE FROM records {_OF_KEY}"  # noqa: S608 - a constant
_RENEW = f"UPDATE records SET claimed_until = ? {_OWN} AND claimed_until > ?"  # noqa: S608 - a constant
_SETTLE = f"UPDATE records SET outcome = ? {_OWN}"  # noqa: S608 - a constant
_SETTLED = f"SELECT fence, outcome FROM records {_OF_KEY}"  # noqa: S608 - a constant
_RELEASE = f"DELETE FROM records {_OWN}"  # noqa: S608 - a constant


class UnfitFile(Exception):
    """A file is no store of ours; the message says why."""


class Change(NamedTuple):
    """A piece of work on the records at a time. If `durable`, it is on disk when it returns."""

    work: Callable[[Records, float], object]
    durable: bool


class Records:
    """The records in a file, which is created with mode 0600.

    Args:
        path: The file.
        marks: The marks of the keys of this gateway.
        now: The time, in seconds.

    Raises:
        UnfitFile: The file is of another program or version, or cannot have a write-ahead log.
        KeyDiffers: The file has ids of other keys.
        OSError: The file cannot be created.
        sqlite3.Error: SQLite cannot use the file.
    """

    def __init__(self, path: Path, marks: Sequence[str], now: float) -> None:
        # SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._synchronous = ""
        self._prune_at = 0.0
        # The ids in the file, as of the last look, and those that this process added since then.
        self.count = 0
        self._marks = frozenset(marks)
        try:
            self._prepare(now)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, now: float) -> None:
        with self._transaction("BEGIN"):
            self._is_new()
        if self._use_write_ahead_log() != "wal":
            raise UnfitFile("its file system has no shared memory, which SQLite's write-ahead log needs")
        # In one transaction, because another gateway may start now, and this one may be killed.
        with self._transaction():
            if self._is_new():
                for statement in _SCHEMA:
                    self._database.execute(statement)
            # Without this change, the transaction would not show that the file cannot be written.
            if not self._use_keys(now):
                raise KeyDiffers
        for statement in _TRIGGERS:
            self._database.execute(statement)
        self._look_at_count()

    def _is_new(self) -> bool:
        (application,) = self._one("PRAGMA application_id")
        names = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master")}
        if application != APPLICATION_ID and (application or names):
            raise UnfitFile("it is a database of another program, or of another version of the gateway")
        if names and not names >= _TABLES:
            raise UnfitFile(
                "it is a database of a newer version of the gateway; start that version, or use another file"
            )
        return not names

    def _use_write_ahead_log(self) -> object:
        # SQLite does not wait for the lock that this needs, and another gateway may do the same.
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._one("PRAGMA journal_mode = WAL")[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
                time.sleep(LOOK_AGAIN_SECONDS)

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """Return a context that is one transaction, or part of the one that is open."""
        if self._database.in_transaction:
            yield
            return
        self._database.execute(begin)
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    def _one(self, query: str, parameters: Sequence[object] = ()) -> tuple[object, ...]:
        row: tuple[object, ...] = self._database.execute(query, parameters).fetchone()
        return row

    def run(self, changes: Sequence[Change], now: float) -> list[object]:
        """Run changes in one transaction; return what each returned, or the `GatewayError` that it raised.

        Raises:
            sqlite3.Error: None of the changes was made.
        """
        # A lost settle or release is safe: the id then reads as unknown. Only a claim must be on disk, with one fsync.
        self._synchronize("FULL" if any(change.durable for change in changes) else "NORMAL")
        if len(changes) == 1 and now < self._prune_at:
            # Its first statement is a transaction of its own, and usually the only one.
            return [changes[0].work(self, now)]
        try:
            with self._transaction():
                return [change.work(self, now) for change in changes]
        except BaseException:
            # The keys may not have been written.
            self._prune_at = 0.0
            raise

    def _synchronize(self, level: str) -> None:
        if level != self._synchronous:
            self._database.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def probe(self, now: float) -> KeyDiffers | None:
        """Compare the keys, and write one row, to see whether that is possible; the error is returned."""
        with self._transaction():
            return None if self._use_keys(now) else KeyDiffers()

    def _use_keys(self, now: float) -> bool:
        """Return whether each gateway that claimed ids which have not expired has one of our keys; if so, add ours."""
        known = self._database.execute("SELECT marks FROM keys WHERE expires > ?", (now,)).fetchall()
        if any(self._marks.isdisjoint(marks.split()) for (marks,) in known):
            return False
        self._database.execute("DELETE FROM keys WHERE expires <= ?", (now,))
        ours = (" ".join(sorted(self._marks)), now + KEEP_RECORD_SECONDS)
        self._database.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", ours)
        return True

    def claim(self, now: float, claim: Claim, fingerprint: bytes, seconds: float) -> object:
        """See `IdempotencyStore.claim`; the error is returned."""
        if now >= self._prune_at:
            if not self._use_keys(now):
                return KeyDiffers()
            self._prune(now)
        key = claim.key[:2]
        new = (*key, claim.fence, fingerprint, now + seconds, now + KEEP_RECORD_SECONDS)
        if self._changes(_CLAIM, (*new, MAX_RECORDS)):
            self.count += 1
            return None
        with self._transaction():
            held, everyone, expires, *row = self._database.execute(_LOOK, key).fetchone()
            if expires is not None:
                if expires > now:
                    return _seen_by(claim, row, now)
                self._database.execute(_DELETE, key)
            if not fits_fair_share(held or 0, 1, MAX_RECORDS - (everyone or 0)):
                return exhausted(MAX_RECORDS, held or 0)
            self._database.execute(_ADD, (*new, None))
        return None

    def renew(self, now: float, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore.renew`."""
        return self._changes(_RENEW, (now + seconds, *claim.key[:2], claim.fence, now))

    def settle(self, now: float, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore.settle`."""
        assert record.outcome is not None, "a settled record has an outcome"  # noqa: S101 - a bug of ours
        key, fence, outcome = claim.key[:2], claim.fence, encode(record.outcome)
        if self._changes(_SETTLE, (outcome, *key, fence)):
            return True
        with self._transaction():
            row = self._database.execute(_SETTLED, key).fetchone()
            if row is None:
                expires = now + KEEP_RECORD_SECONDS
                self._database.execute(_ADD, (*key, fence, record.fingerprint, 0.0, expires, outcome))
                return True
        return tuple(row) == (fence, outcome)

    def release(self, _now: float, claim: Claim) -> bool:
        """See `IdempotencyStore.release`."""
        released = self._changes(_RELEASE, (*claim.key[:2], claim.fence))
        self.count -= released
        return released

    def _changes(self, statement: str, values: Sequence[object]) -> bool:
        return self._database.execute(statement, values).rowcount == 1

    def _look_at_count(self) -> None:
        (count,) = self._one(f"SELECT ifnull(({_HELD} = x''), 0)")
        self.count = cast("int", count)

    def _prune(self, now: float) -> None:
        expired = self._database.execute(
            "SELECT caller, request FROM records WHERE expires <= ? LIMIT ?", (now, PRUNE_SLICE)
        ).fetchall()
        self._database.executemany(_DELETE, expired)
        self._look_at_count()
        # If there may be more, with the next claim.
        self._prune_at = now if len(expired) == PRUNE_SLICE else now + PRUNE_SECONDS


def _seen_by(claim: Claim, row: Sequence[Any], now: float) -> IdempotencyRecord | None:
    fence, fingerprint, claimed_until, outcome = row
    if outcome is not None:
        return IdempotencyRecord(fingerprint, decode(outcome))
    if fence == claim.fence:
        return None
    return IdempotencyRecord(fingerprint, None if now < claimed_until else OWNER_LOST)
