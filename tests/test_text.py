"""Truncation of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.text import CUT_MARK, cut

text_without_surrogates = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("", 20, ""),
        ("x" * 20, 20, "x" * 20),
        ("x" * 21, 20, "x" * 12 + CUT_MARK),
        ("ä" * 10, 20, "ä" * 10),
        ("ä" * 11, 20, "ä" * 6 + CUT_MARK),
        ("🙂" * 6, 20, "🙂" * 3 + CUT_MARK),
        ("x" * 9, 8, CUT_MARK),
    ],
)
def test_a_text_is_cut_between_characters_with_a_mark(text: str, limit: int, shown: str) -> None:
    assert cut(text, limit) == shown


@given(text_without_surrogates, st.integers(8, 70))
def test_a_cut_text_is_as_long_as_fits(text: str, limit: int) -> None:
    shown = cut(text, limit)
    assert len(shown.encode()) <= limit
    if shown != text:
        assert len(text.encode()) > limit
        beginning = shown.removesuffix(CUT_MARK)
        assert text.startswith(beginning)
        one_more = text[: len(beginning) + 1]
        assert len((one_more + CUT_MARK).encode()) > limit
