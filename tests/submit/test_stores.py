"""The conformance suite: every test runs against each store."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import RequestIdsExhausted
from gateway.models import ForgottenResult, Job, JobError, JobStatus
from gateway.submit import Claim, IdempotencyKey, IdempotencyRecord, Outcome, memory_store, redis_store, sqlite_records
from gateway.submit.records import OWNER_LOST, UNREADABLE
from gateway.submit.rotation import RotatingStore

if TYPE_CHECKING:
    from gateway.submit import IdempotencyStore
    from tests.submit.stores import Harness

ANN, BOB = b"a" * 16, b"b" * 16
KEY = IdempotencyKey(ANN, b"1" * 16)
MARK = b"\0\xff" * 16
CLAIM_SECONDS = 150.0
# Time that a busy machine may take between two steps of a test, because Redis has a clock of its own.
MARGIN = 60.0
KEEP_SECONDS = 25 * 3600.0
SETTLED = IdempotencyRecord(MARK, Outcome(uid=2**63 - 1))


def claim_of(fence: int, key: IdempotencyKey = KEY) -> Claim:
    return Claim(key, fence)


async def claim(store: IdempotencyStore, fence: int, key: IdempotencyKey = KEY) -> IdempotencyRecord | None:
    return await store.claim(claim_of(fence, key), MARK, CLAIM_SECONDS)


def small(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    for module in (memory_store, sqlite_records, redis_store):
        monkeypatch.setattr(module, "MAX_RECORDS", records)


async def test_an_id_is_claimed_once_and_all_see_the_outcome(place: Harness) -> None:
    one, other = place.open(), place.open()
    assert await claim(one, 1) is None
    assert await claim(other, 2) == IdempotencyRecord(MARK)
    assert await one.settle(claim_of(1), SETTLED)
    assert await claim(other, 2) == SETTLED
    assert await claim(one, 3) == SETTLED


async def test_of_many_claims_at_the_same_time_one_is_granted(place: Harness) -> None:
    stores = [place.open() for _ in range(3)]
    results = await asyncio.gather(*(claim(stores[fence % 3], fence) for fence in range(60)))
    assert results.count(None) == 1
    assert {each for each in results if each is not None} == {IdempotencyRecord(MARK)}


async def test_a_claim_may_be_repeated_if_its_reply_was_lost(place: Harness) -> None:
    store = place.open()
    assert await claim(store, 1) is None
    assert await claim(store, 1) is None
    assert await store.settle(claim_of(1), SETTLED)
    assert await store.settle(claim_of(1), SETTLED), "and so may the settle"


async def test_a_released_id_is_free_for_another_request(place: Harness) -> None:
    one, other = place.open(), place.open()
    await claim(one, 1)
    assert await one.release(claim_of(1))
    assert not await one.release(claim_of(1))
    assert await other.claim(claim_of(2), b"another", CLAIM_SECONDS) is None


async def test_a_claim_whose_owner_died_has_an_unknown_outcome(place: Harness) -> None:
    one, other = place.open(), place.open()
    await claim(one, 1)
    await place.pass_time(CLAIM_SECONDS - MARGIN)
    assert await claim(other, 2) == IdempotencyRecord(MARK)
    await place.pass_time(2 * MARGIN)
    assert await claim(other, 2) == IdempotencyRecord(MARK, OWNER_LOST)
    await place.pass_time(KEEP_SECONDS - CLAIM_SECONDS - 2 * MARGIN)
    assert await claim(other, 2) == IdempotencyRecord(MARK, OWNER_LOST)


async def test_a_renewed_claim_lasts_longer(place: Harness) -> None:
    one, other = place.open(), place.open()
    await claim(one, 1)
    await place.pass_time(CLAIM_SECONDS - MARGIN)
    assert await one.renew(claim_of(1), CLAIM_SECONDS)
    await place.pass_time(CLAIM_SECONDS - MARGIN)
    assert await claim(other, 2) == IdempotencyRecord(MARK)
    assert not await other.renew(claim_of(2), CLAIM_SECONDS), "others cannot renew it"
    await place.pass_time(2 * MARGIN)
    assert not await one.renew(claim_of(1), CLAIM_SECONDS), "others may know that it has ended"
    assert await claim(other, 2) == IdempotencyRecord(MARK, OWNER_LOST)


async def test_a_late_owner_may_settle_an_expired_claim_of_its_own(place: Harness) -> None:
    one, other = place.open(), place.open()
    await claim(one, 1)
    await place.pass_time(CLAIM_SECONDS + MARGIN)
    assert await one.settle(claim_of(1), SETTLED)
    assert await claim(other, 2) == SETTLED


async def test_a_suspended_owner_cannot_change_a_newer_claim(place: Harness) -> None:
    one, other = place.open(), place.open()
    await claim(one, 1)
    # The store lost the record, or 25 hours are over.
    await one.release(claim_of(1))
    await claim(other, 2)
    assert not await one.settle(claim_of(1), SETTLED)
    assert not await one.renew(claim_of(1), CLAIM_SECONDS)
    assert not await one.release(claim_of(1))
    newer = IdempotencyRecord(MARK, Outcome(uid=7))
    assert await other.settle(claim_of(2), newer)
    assert not await one.settle(claim_of(1), SETTLED)
    assert await claim(one, 3) == newer


async def test_an_outcome_does_not_change(place: Harness) -> None:
    store = place.open()
    await claim(store, 1)
    await store.settle(claim_of(1), SETTLED)
    assert not await store.settle(claim_of(1), IdempotencyRecord(MARK, Outcome(uid=7)))
    assert not await store.release(claim_of(1))
    assert not await store.renew(claim_of(1), CLAIM_SECONDS)
    assert await claim(store, 2) == SETTLED


async def test_a_settle_writes_a_record_that_was_lost(place: Harness) -> None:
    store = place.open()
    assert await store.settle(claim_of(1), SETTLED)
    assert await claim(store, 2) == SETTLED


async def test_records_are_kept_for_25_hours(place: Harness) -> None:
    store = place.open()
    await claim(store, 1)
    await store.settle(claim_of(1), SETTLED)
    await place.pass_time(KEEP_SECONDS - MARGIN)
    assert await claim(store, 2) == SETTLED
    await place.pass_time(2 * MARGIN)
    assert await claim(store, 3) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(uid=1),
        Outcome(unknown='lost: "é"', http_status=502),
        Outcome(
            uid=0,
            ended=Job(
                uid=0,
                status=JobStatus.ERROR_USER,
                status_text="error_user",
                done=True,
                observe_time=1_700_000_000.25,
                error=JobError(message="a beam is too long"),
                complete_time=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
                forgotten_result=ForgottenResult(50 << 20, "ab" * 32),
            ),
        ),
        Outcome(uid=0, ended=Job(uid=0, status=JobStatus.SUCCESS, status_text="success", done=True, observe_time=1.0)),
    ],
    ids=["uid", "unknown", "ended", "ended plainly"],
)
async def test_every_outcome_comes_back_as_it_was(place: Harness, outcome: Outcome) -> None:
    store = place.open()
    await claim(store, 1)
    record = IdempotencyRecord(MARK, outcome)
    await store.settle(claim_of(1), record)
    assert await claim(place.open(), 2) == record


async def test_an_outcome_that_cannot_be_read_is_unknown(place: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.kind == "memory":
        pytest.skip("it stores no bytes")
    store = place.open()
    await claim(store, 1)
    for module in (redis_store, sqlite_records):
        monkeypatch.setattr(module, "encode", lambda _: b'{"uid": "of another version"}')
    await store.settle(claim_of(1), SETTLED)
    others = [IdempotencyKey(BOB, b"%016d" % number) for number in range(3)]
    results = await asyncio.gather(claim(store, 9), claim(store, 2), *(claim(store, 3, other) for other in others))
    assert results == [IdempotencyRecord(MARK, UNREADABLE)] * 2 + [None] * 3
    assert place.health.available


async def test_a_caller_holds_at_most_three_times_what_it_leaves_free(
    place: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 4)
    store = place.open()
    await place.see_total(store)

    async def take(caller: bytes, number: int) -> IdempotencyRecord | None:
        try:
            return await claim(store, number, IdempotencyKey(caller, b"%016d" % number))
        finally:
            await place.see_total(store)

    for number in range(3):
        assert await take(ANN, number) is None
    with pytest.raises(RequestIdsExhausted, match=r"remembers 3 of this credential, of 4 in total"):
        await take(ANN, 3)
    assert await take(BOB, 4) is None
    with pytest.raises(RequestIdsExhausted):
        await take(BOB, 5)
    with pytest.raises(RequestIdsExhausted, match=r"remembers 0 of this credential"):
        await take(b"c" * 16, 6)
    assert await take(ANN, 0) is None, "the id that is claimed already"
    assert await store.release(claim_of(0, IdempotencyKey(ANN, b"%016d" % 0)))
    await place.see_total(store)
    assert await take(b"e" * 16, 6) is None, "a released id makes room"
    await place.pass_time(KEEP_SECONDS + 3600)
    await place.see_total(store)
    assert await take(ANN, 7) is None, "and so does an expired one"


async def test_an_expired_id_is_free_before_it_is_deleted(place: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_store, sqlite_records):
        monkeypatch.setattr(module, "PRUNE_SLICE", 1)
    store = place.open()
    keys = [IdempotencyKey(ANN, b"%016d" % number) for number in range(4)]
    for fence, key in enumerate(keys):
        assert await claim(store, fence, key) is None
        await store.settle(claim_of(fence, key), SETTLED)
    await place.pass_time(KEEP_SECONDS + 1)
    assert await claim(store, 9, keys[-1]) is None
    assert await claim(store, 10, keys[-1]) == IdempotencyRecord(MARK)


async def test_ids_of_two_callers_are_different_ids(place: Harness) -> None:
    store = place.open()
    assert await claim(store, 1, IdempotencyKey(ANN, b"1" * 16)) is None
    assert await claim(store, 2, IdempotencyKey(BOB, b"1" * 16)) is None


async def test_gateways_with_the_old_and_the_new_key_share_ids(place: Harness) -> None:
    old, new = IdempotencyKey(b"o" * 16, b"1" * 16), IdempotencyKey(b"n" * 16, b"2" * 16)
    before, after = place.open(), place.open()
    both = [RotatingStore(place.open()) for _ in range(2)]
    to_new, to_old = new._replace(old=old), old._replace(old=new)
    results = await asyncio.gather(
        claim(before, 1, old), claim(both[0], 2, to_new), claim(both[1], 3, to_old), claim(both[0], 4, to_new)
    )
    assert results.count(None) == 1
    winner = results.index(None)
    store, key = ((before, old), (both[0], to_new), (both[1], to_old), (both[0], to_new))[winner]
    assert await store.settle(claim_of(winner + 1, key), SETTLED)
    assert await claim(before, 5, old) == SETTLED
    assert await claim(both[0], 6, to_new) == SETTLED
    if winner:
        assert await claim(after, 7, new) == SETTLED


async def test_each_change_under_two_keys_reaches_both(place: Harness) -> None:
    inner = place.open()
    store = RotatingStore(inner)
    old, new = IdempotencyKey(b"o" * 16, b"1" * 16), IdempotencyKey(b"n" * 16, b"2" * 16)
    key = new._replace(old=old)
    assert await claim(store, 1, key) is None
    for _ in range(2):
        await place.pass_time(CLAIM_SECONDS - MARGIN)
        assert await store.renew(claim_of(1, key), CLAIM_SECONDS)
    await place.pass_time(CLAIM_SECONDS - MARGIN)
    for each in (old, new):
        assert await claim(inner, 2, each) == IdempotencyRecord(MARK)
    assert await store.release(claim_of(1, key))
    for each in (old, new):
        assert await claim(inner, 3, each) is None
        assert await inner.release(claim_of(3, each))
    assert await claim(store, 4, key) is None
    assert await store.settle(claim_of(4, key), SETTLED)
    for each in (old, new):
        assert await claim(inner, 5, each) == SETTLED


async def test_gateways_claim_two_keys_in_one_order(place: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = IdempotencyKey(b"o" * 16, b"1" * 16), IdempotencyKey(b"n" * 16, b"2" * 16)
    inner = place.open()
    real = inner.claim

    async def in_turns(*arguments: Any) -> IdempotencyRecord | None:
        result = await real(*arguments)
        await asyncio.sleep(0)
        return result

    monkeypatch.setattr(inner, "claim", in_turns)
    first, second = RotatingStore(inner), RotatingStore(inner)
    results = await asyncio.gather(
        claim(first, 1, new._replace(old=old)), claim(second, 2, old._replace(old=new)), return_exceptions=True
    )
    assert results.count(None) == 1


async def test_an_id_with_room_under_one_key_only_stays_free(place: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 2)
    inner = place.open()
    store = RotatingStore(inner)
    old = IdempotencyKey(b"o" * 16, b"1" * 16)
    key = IdempotencyKey(b"n" * 16, b"2" * 16, old)
    assert await claim(inner, 1, old._replace(request=b"3" * 16)) is None
    await place.see_total(inner)
    for fence in (2, 3):
        with pytest.raises(RequestIdsExhausted):
            await claim(store, fence, key)
    monkeypatch.undo()
    await place.see_total(inner)
    assert await claim(store, 4, key) is None
