"""Where it is remembered which job belongs to which request_id."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from gateway.errors import RequestIdsExhausted
from gateway.limits.fair_budget import fits_fair_share

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.models import Job

KEEP_RECORD_SECONDS = 25 * 3600.0
MAX_RECORDS = 100_000


class IdempotencyKey(NamedTuple):
    """A request_id belongs to one caller."""

    caller_key: bytes
    request_id: str


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """What is known of a submission: `uid` once there is a job, `unknown` where its outcome is not known.

    `ended` is a job that had ended in the answer to its POST and has no uid, so that it cannot be read again; without
    what takes memory.
    """

    fingerprint: bytes
    uid: int | None = None
    unknown: str | None = None
    http_status: int | None = None
    ended: Job | None = None


class IdempotencyStore(Protocol):
    """Remembers records for 25 hours at least. Each method is atomic."""

    async def claim(self, key: IdempotencyKey, record: IdempotencyRecord) -> IdempotencyRecord | None:
        """Puts `record` where there is none and returns None; else returns the one that is there.

        Raises `RequestIdsExhausted` where there is no place: a record that is younger is never given up.
        """

    async def settle(self, key: IdempotencyKey, record: IdempotencyRecord) -> None:
        """Replaces the record of a claim by what came of it."""

    async def release(self, key: IdempotencyKey) -> None:
        """Gives a claimed id free again, for certainly no job was made under it."""


class InMemoryIdempotencyStore:
    """A store for the life of one process: at most 100,000 records of 25 hours.

    One caller has at most three times as many as it leaves free.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_caller: Counter[bytes] = Counter()
        # In the order of their claims, so that the oldest stand first.
        self._records: OrderedDict[IdempotencyKey, tuple[float, IdempotencyRecord]] = OrderedDict()

    async def claim(self, key: IdempotencyKey, record: IdempotencyRecord) -> IdempotencyRecord | None:
        """See `IdempotencyStore`."""
        now = self._clock.monotonic()
        while self._records and next(iter(self._records.values()))[0] <= now:
            self._remove(next(iter(self._records)))
        existing = self._records.get(key)
        if existing is not None:
            return existing[1]
        held = self._of_caller[key.caller_key]
        if not fits_fair_share(held, 1, MAX_RECORDS - len(self._records)):
            raise RequestIdsExhausted(
                f"the gateway remembers {MAX_RECORDS} request_ids at most, {held} of them for this credential, and "
                "has no room for another now; send without one, or try again later"
            )
        self._of_caller[key.caller_key] += 1
        self._records[key] = (now + KEEP_RECORD_SECONDS, record)
        return None

    def _remove(self, key: IdempotencyKey) -> None:
        if self._records.pop(key, None) is not None:
            self._of_caller[key.caller_key] -= 1
            if not self._of_caller[key.caller_key]:
                del self._of_caller[key.caller_key]

    async def settle(self, key: IdempotencyKey, record: IdempotencyRecord) -> None:
        """See `IdempotencyStore`."""
        if key not in self._records:
            self._of_caller[key.caller_key] += 1
        expires, _ = self._records.get(key, (self._clock.monotonic() + KEEP_RECORD_SECONDS, None))
        self._records[key] = (expires, record)

    async def release(self, key: IdempotencyKey) -> None:
        """See `IdempotencyStore`."""
        self._remove(key)
