"""Fingerprints as keyed hashes, so that a reader of a store cannot test guesses of a request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from gateway.submit.records import Claim, IdempotencyRecord
    from gateway.submit.store import IdempotencyStore


class SealingStore:
    """A store that keeps the hash of each fingerprint under the seal of its key."""

    def __init__(self, store: IdempotencyStore) -> None:
        self._store = store

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """See `IdempotencyStore`. In the record, the fingerprint is the given one or some other."""
        sealed = _sealed(claim, fingerprint)
        record = await self._store.claim(claim, sealed, seconds)
        return replace(record, fingerprint=fingerprint) if record and record.fingerprint == sealed else record

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore`."""
        return await self._store.renew(claim, seconds)

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore`."""
        return await self._store.settle(claim, replace(record, fingerprint=_sealed(claim, record.fingerprint)))

    async def release(self, claim: Claim) -> bool:
        """See `IdempotencyStore`."""
        return await self._store.release(claim)

    async def aclose(self) -> None:
        """See `IdempotencyStore`."""
        await self._store.aclose()


def _sealed(claim: Claim, fingerprint: bytes) -> bytes:
    return hashlib.blake2b(fingerprint, key=claim.key.seal, digest_size=16, person=b"fingerprint").digest()
