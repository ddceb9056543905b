"""The store `memory:`, which lives as long as its process."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from gateway.limits.fair_budget import Usage, fits_fair_share
from gateway.submit.records import OWNER_LOST, IdempotencyRecord
from gateway.submit.store import KEEP_RECORD_SECONDS, exhausted

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.submit.records import Claim, IdempotencyKey

MAX_RECORDS = 100_000
# Expired records that one claim deletes: deleting all of them would hold the event loop for long. A claim adds one, so
# that this is enough.
PRUNE_SLICE = 64


class _Entry:
    """A record, its fence, and the two times at which the claim and the record end."""

    __slots__ = ("claimed_until", "expires", "fence", "record")

    def __init__(self, record: IdempotencyRecord, fence: int, claimed_until: float, expires: float) -> None:
        self.record = record
        self.fence = fence
        self.claimed_until = claimed_until
        self.expires = expires


class InMemoryIdempotencyStore:
    """A store of at most 100,000 records. A caller holds at most three times as many as it leaves free."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_caller: Counter[bytes] = Counter()
        # In the order of their claims, so that the oldest is first.
        self._entries: OrderedDict[IdempotencyKey, _Entry] = OrderedDict()

    @property
    def usage(self) -> Usage:
        """See `CountedStore`."""
        return Usage(len(self._entries), MAX_RECORDS)

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """See `IdempotencyStore`."""
        now = self._clock.monotonic()
        self._prune(now)
        entry = self._entries.get(claim.key)
        if entry is not None:
            if entry.expires > now:
                return _seen_by(claim, entry, now)
            self._remove(claim.key)
        held = self._of_caller[claim.key.caller]
        if not fits_fair_share(held, 1, MAX_RECORDS - len(self._entries)):
            raise exhausted(MAX_RECORDS, held)
        self._add(claim, IdempotencyRecord(fingerprint), now + seconds)
        return None

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore`."""
        now = self._clock.monotonic()
        entry = self._own(claim)
        if entry is None or entry.claimed_until <= now:
            return False
        entry.claimed_until = now + seconds
        return True

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore`."""
        entry = self._entries.get(claim.key)
        if entry is None:
            self._add(claim, record, 0.0)
            return True
        if entry.fence != claim.fence:
            return False
        if entry.record.outcome is None:
            entry.record = record
        return entry.record == record

    async def release(self, claim: Claim) -> bool:
        """See `IdempotencyStore`."""
        if self._own(claim) is None:
            return False
        self._remove(claim.key)
        return True

    async def aclose(self) -> None:
        """See `IdempotencyStore`."""

    def _own(self, claim: Claim) -> _Entry | None:
        entry = self._entries.get(claim.key)
        return entry if entry and entry.fence == claim.fence and entry.record.outcome is None else None

    def _add(self, claim: Claim, record: IdempotencyRecord, claimed_until: float) -> None:
        expires = self._clock.monotonic() + KEEP_RECORD_SECONDS
        self._of_caller[claim.key.caller] += 1
        self._entries[claim.key] = _Entry(record, claim.fence, claimed_until, expires)

    def _prune(self, now: float) -> None:
        for _ in range(min(PRUNE_SLICE, len(self._entries))):
            key, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                return
            self._remove(key)

    def _remove(self, key: IdempotencyKey) -> None:
        del self._entries[key]
        self._of_caller[key.caller] -= 1
        if not self._of_caller[key.caller]:
            del self._of_caller[key.caller]


def _seen_by(claim: Claim, entry: _Entry, now: float) -> IdempotencyRecord | None:
    record = entry.record
    if record.outcome is not None:
        return record
    if entry.fence == claim.fence:
        return None
    return record if now < entry.claimed_until else IdempotencyRecord(record.fingerprint, OWNER_LOST)
