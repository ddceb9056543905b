"""Bearer tokens and their keyed hashes."""

from __future__ import annotations

import pytest

from gateway.auth.credential import Credential, read_credential
from gateway.errors import CredentialInvalid

TOKEN = "vktrpat_0123456789"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
async def test_a_bearer_token_is_read_with_any_spelling_of_its_scheme(scheme: str) -> None:
    assert await read_credential([scheme + TOKEN]).headers() == {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [TOKEN],
        ["Bearer "],
        ["Basic " + TOKEN],
        ["Bearer a b"],
        ["Bearer a\n"],
        ["Bearer a\r\nx: y"],
        ["Bearer \0"],
        ["Bearer é"],
        [b"Bearer " + TOKEN.encode()],
        ["Bearer " + "a" * 8193],
        ["Bearer a", "Bearer a"],
    ],
)
def test_anything_but_one_bearer_token_is_rejected(values: list[str | bytes]) -> None:
    with pytest.raises(CredentialInvalid) as raised:
        read_credential(values)
    assert TOKEN not in str(raised.value)


def test_equal_tokens_have_equal_keys_and_others_have_not() -> None:
    one, same, other = Credential(TOKEN), Credential(TOKEN), Credential(TOKEN + "x")
    assert (one.poll_key, one.caller_key) == (same.poll_key, same.caller_key)
    assert len({one.poll_key, one.caller_key, other.poll_key, other.caller_key}) == 4


def test_a_credential_shows_its_token_only_in_headers() -> None:
    credential = Credential(TOKEN)
    shown = [repr(credential), str(credential), f"{credential}", repr(credential.poll_key), repr(credential.caller_key)]
    assert not any(TOKEN in each for each in shown)


@pytest.mark.parametrize(
    ("token", "text", "redacted"),
    [
        (TOKEN, f"a {TOKEN} and {TOKEN}", "a [redacted] and [redacted]"),
        (TOKEN, "nothing of it", "nothing of it"),
        ("secret", "a secret", "a [redacted]"),
        # Too short to be a secret; ordinary words contain it.
        ("the", "the word", "the word"),
    ],
)
def test_an_echoed_token_is_redacted(token: str, text: str, redacted: str) -> None:
    assert Credential(token).redact(text) == redacted
