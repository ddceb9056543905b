"""The values that stores keep. Another version of the gateway must find and read them during an upgrade."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gateway.auth.credential import Credential
from gateway.limits.holds import Holds
from gateway.models import ForgottenResult, Job, JobError, JobStatus
from gateway.submit import Claim, InMemoryIdempotencyStore, Outcome, RequestKeys, fingerprint_of
from gateway.submit.records import decode, encode
from gateway.submit.sealing import SealingStore
from gateway.submit.state import open_state
from tests.submit.test_fingerprint import JOB
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.submit.stores import Harness

KEYS = RequestKeys(b"1" * 32)
SEALED = "3eac2dda1b77b0e40c4e068418132f62"
KEY = KEYS.key_of(Credential("token-of-ann"), "order-4711")


def test_the_keys_of_callers_ids_and_credentials() -> None:
    assert KEY.caller.hex() == "ceea7b574695ac860176b94a8a52c251"
    assert KEY.request.hex() == "34b86ff6a1456fa350007e2c61a5949f"
    assert KEY.seal.hex() == "b375ee354b4dc504609383c795c62814"
    assert KEYS.marks == ("c511f875b8b604b481fc48c80e24a519",)
    assert KEYS.credentials.hex() == "b656ebd13a9903102ff6499bd0329acc8da4cc5c3ee3866cf4d1517b9d75d9f9"


def test_the_fingerprint_of_a_request_with_every_field() -> None:
    params = '{"b":[1,1.50,1e400,-0.0,12345678901234567890.5],"a":{"":null,"é":true}}'.encode()
    found = fingerprint_of(replace(JOB, params=params)).hex()
    assert found == "37918190d5393b6f8297094adf4d1d2ad494224721e1bda995a33684ee63d0c7"


async def test_the_sealed_fingerprint() -> None:
    inner = InMemoryIdempotencyStore(SteppedClock())
    await SealingStore(inner).claim(Claim(KEY, 1), b"f" * 32, 100.0)
    stored = await inner.claim(Claim(KEY, 2), b"", 100.0)
    assert stored is not None
    assert stored.fingerprint.hex() == SEALED


async def test_a_gateway_seals_the_fingerprints_that_outlive_it(place: Harness, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"1" * 32)
    state = open_state(place.url, key_file, place.clock, Holds(place.clock))
    await state.store.claim(Claim(KEY, 1), b"f" * 32, 100.0)
    stored = await place.open(KEYS.marks).claim(Claim(KEY, 2), b"", 100.0)
    await state.aclose()
    # The memory of another process is empty.
    assert (stored and stored.fingerprint.hex()) == (None if place.kind == "memory" else SEALED)


@pytest.mark.parametrize(
    ("outcome", "stored"),
    [
        (Outcome(uid=7), b'{"uid":7}'),
        (Outcome(unknown="lost", http_status=502), b'{"unknown":"lost","http_status":502}'),
        (
            Outcome(
                uid=0,
                ended=Job(
                    uid=0,
                    status=JobStatus.ERROR_USER,
                    status_text="error_user",
                    done=True,
                    observe_time=1.5,
                    error=JobError(message="too long"),
                    complete_time=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
                    forgotten_result=ForgottenResult(9, "ab"),
                ),
            ),
            b'{"uid":0,"ended":{"status":"ERROR_USER","status_text":"error_user","observed":1.5,"error":"too long",'
            b'"completed":"2026-01-02T03:04:05Z","size":9,"sha256":"ab"}}',
        ),
    ],
    ids=["uid", "unknown", "ended"],
)
def test_the_outcomes(outcome: Outcome, stored: bytes) -> None:
    assert encode(outcome) == stored
    assert decode(stored) == outcome
    assert decode(stored[:-1] + b',"of_a_later_version":1}') == outcome
