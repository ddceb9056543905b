"""Encoding and validation of resume tokens."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc.codec.resume_token import ResumePoint, read_token, write_token

points = st.builds(
    ResumePoint,
    uid=st.integers(1, 2**63 - 1),
    digest=st.binary(min_size=16, max_size=16),
) | st.builds(
    ResumePoint,
    uid=st.integers(1, 2**63 - 1),
    digest=st.binary(min_size=16, max_size=16),
    offset=st.integers(0, 2**63 - 1),
    content_sha256=st.binary(min_size=32, max_size=32),
)


@given(points)
def test_a_token_is_short_and_holds_its_point(point: ResumePoint) -> None:
    token = write_token(point)
    assert len(token) <= 512
    assert token.isascii()
    assert read_token(token) == point


@given(points, st.data())
def test_a_damaged_token_is_no_token(point: ResumePoint, data: st.DataObject) -> None:
    token = write_token(point)
    place = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from("ABCxyz019-_ =é").filter(lambda each: each != token[place]))
    with pytest.raises(ValueError, match="resume token"):
        read_token(token[:place] + other + token[place + 1 :])


@given(st.text(max_size=600))
def test_any_text_is_a_token_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="resume token"):
        read_token(text)


def test_a_token_of_another_version_is_one_that_does_not_fit() -> None:
    raw = b"\x02whatever comes"
    token = base64.urlsafe_b64encode(raw + zlib.crc32(raw).to_bytes(4, "big")).decode().rstrip("=")
    assert read_token(token) is None
