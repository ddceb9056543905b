"""Request ids under two secret keys, while the key is rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import RequestIdsExhausted
from gateway.submit.records import Claim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.submit.records import IdempotencyRecord
    from gateway.submit.store import IdempotencyStore


class RotatingStore:
    """A store in which every id is claimed under both keys, so that gateways with either key find it.

    All gateways claim in the same order, whichever of the keys is first in their files.
    """

    def __init__(self, store: IdempotencyStore) -> None:
        self._store = store

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """See `IdempotencyStore`."""
        first, second = _both(claim)
        record = await self._store.claim(first, fingerprint, seconds)
        if record is not None:
            return record
        try:
            record = await self._store.claim(second, fingerprint, seconds)
        except RequestIdsExhausted:
            await self._store.release(first)
            raise
        if record is not None:
            await self._store.release(first)
        return record

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """See `IdempotencyStore`."""
        return all([await self._store.renew(each, seconds) for each in _both(claim)])

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """See `IdempotencyStore`."""
        return all([await self._store.settle(each, record) for each in _both(claim)])

    async def release(self, claim: Claim) -> bool:
        """See `IdempotencyStore`."""
        return all([await self._store.release(each) for each in _both(claim)])

    async def aclose(self) -> None:
        """See `IdempotencyStore`."""
        await self._store.aclose()


def _both(claim: Claim) -> Iterator[Claim]:
    key = claim.key
    assert key.old is not None, "keys have an old one during a rotation"  # noqa: S101 - a bug of ours
    return (Claim(each, claim.fence) for each in sorted((key._replace(old=None), key.old)))
