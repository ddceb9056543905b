from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

import pytest

from gateway.auth.credential import Credential
from gateway.errors import ConfigError
from gateway.submit import Claim, IdempotencyRecord, InMemoryIdempotencyStore, Outcome, RequestKeys
from gateway.submit.keys import random_keys, read_keys, read_or_create_keys
from gateway.submit.sealing import SealingStore
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    from pathlib import Path

ANN, BOB = Credential("token-of-ann"), Credential("token-of-bob")
ONE, OTHER = b"1" * 32, b"2" * 40


def test_keys_are_the_same_in_each_process_with_the_same_file_and_differ_by_caller_and_id() -> None:
    keys = RequestKeys(ONE)
    assert keys.key_of(ANN, "a") == RequestKeys(ONE).key_of(Credential("token-of-ann"), "a")
    found = [keys.key_of(ANN, "a"), keys.key_of(ANN, "b"), keys.key_of(BOB, "a"), RequestKeys(OTHER).key_of(ANN, "a")]
    assert len(set(found)) == 4
    assert found[0].caller == found[1].caller != found[2].caller
    assert not any(text in b"".join(found[0][:2]) for text in (b"token", b"ann"))


def test_an_old_key_stands_behind_the_one_in_use() -> None:
    key = RequestKeys(ONE, OTHER).key_of(ANN, "a")
    assert key.old == RequestKeys(OTHER).key_of(ANN, "a")
    assert key._replace(old=None) == RequestKeys(ONE).key_of(ANN, "a")
    assert RequestKeys(ONE, OTHER).rotating
    assert not random_keys().rotating


def test_a_key_file_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    file = tmp_path / "state.db.key"
    made = read_or_create_keys(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) > 32
    assert read_or_create_keys(file).key_of(ANN, "a") == made.key_of(ANN, "a")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "line 1 of .* has 0 bytes; a key has at least 32"),
        (b"a" * 31 + b"\n", "line 1 of .* has 31 bytes"),
        (ONE + b"\n" + b"a" * 5, "line 2 of .* has 5 bytes"),
        (ONE + b"\n\n" + OTHER, "has 3 lines"),
        (b"\n".join([ONE] * 3), "has 3 lines"),
    ],
)
def test_a_wrong_key_file_stops_the_start_with_one_line_without_the_key(
    tmp_path: Path, content: bytes, why: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as raised:
        read_keys(file)
    assert str(raised.value).startswith("JOBGATEWAY_STATE_KEY_FILE: ")
    assert "\n" not in str(raised.value)
    assert "11111" not in str(raised.value)


def test_line_ends_of_editors_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(ONE + b"\r\n" + OTHER + b"\r\n")
    assert read_keys(file).key_of(ANN, "a") == RequestKeys(ONE, OTHER).key_of(ANN, "a")


def test_a_missing_key_file_or_folder_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing cannot be read: No such file"):
        read_keys(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"cannot be read: |is not a regular file"):
        read_keys(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be created: No such file"):
        read_or_create_keys(tmp_path / "nowhere" / "key")


async def test_a_fingerprint_is_stored_as_a_hash_that_no_reader_can_test_guesses_with() -> None:
    inner = InMemoryIdempotencyStore(SteppedClock())
    store = SealingStore(inner)
    claim = Claim(RequestKeys(ONE).key_of(ANN, "a"), 1)
    record = IdempotencyRecord(b"mark", Outcome(uid=7))
    assert await store.claim(claim, b"mark", 100.0) is None
    assert await store.settle(claim, record)
    again = claim._replace(fence=2)
    assert await store.claim(again, b"mark", 100.0) == record
    other = await store.claim(again, b"another", 100.0)
    stored = await inner.claim(again, b"", 100.0)
    assert other is not None
    assert stored is not None
    assert other.fingerprint != b"another"
    assert stored.fingerprint not in (b"mark", hashlib.blake2b(b"mark", digest_size=16).digest())
    assert await store.renew(again, 1.0) is False
    assert await store.release(again) is False
    await store.aclose()
