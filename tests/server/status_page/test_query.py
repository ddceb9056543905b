"""The query of the status page."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.server.status_page.query import COLUMNS, STATUSES, InvalidQuery, Query


def test_without_parameters_failing_jobs_come_first() -> None:
    assert Query.parse("") == Query(sort="-failures", page=1)
    assert str(Query()) == ""


def test_all_parameters_are_read() -> None:
    query = Query.parse("uid=+42&client=9812019B&status=RUNNING&failing=1&sort=-age&page=3")
    assert query == Query("42", "9812019b", "RUNNING", True, "-age", 3)
    assert (query.column, query.is_descending, query.is_filtering) == ("age", True, True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("page=0", "page: '0' is no page"),
        ("page=-1", "page: '-1' is no page"),
        ("page=٣", "page: '٣' is no page"),
        ("page=1000001", "page: '1000001' is no page; use a number from 1 to 1000000"),
        ("page=" + 400 * "9", "is no page"),
        ("status=DONE", "status: 'DONE' is no status; use one of NOT_READ, "),
        ("sort=--age", "sort: '--age' is no column"),
        ("sort=token", "sort: 'token' is no column; use one of uid, "),
        ("tokn=1", "'tokn': there is no such parameter; use client, failing, page, sort, status, uid"),
        ("&".join(f"uid={each}" for each in range(11)), "at most 10 parameters"),
        ("uid=" + 500 * "1", "504 characters; it may have at most 500"),
    ],
)
def test_an_invalid_query_is_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidQuery) as raised:
        Query.parse(text)
    assert problem in str(raised.value)


@given(st.text(max_size=600))
def test_any_text_is_a_query_or_invalid(text: str) -> None:
    with contextlib.suppress(InvalidQuery):
        query = Query.parse(text)
        assert Query.parse(str(query)) == query


@given(
    st.builds(
        Query,
        uid=st.from_regex(r"[!-~]{0,20}", fullmatch=True),
        client=st.from_regex(r"[0-9a-f&=%]{0,32}", fullmatch=True),
        status=st.sampled_from(["", *STATUSES]),
        failing=st.booleans(),
        sort=st.sampled_from(COLUMNS),
        page=st.integers(1, 1_000_000),
    )
)
def test_a_link_leads_to_the_same_query(query: Query) -> None:
    assert Query.parse(str(query)) == query


def test_a_column_is_reversed_by_a_second_click() -> None:
    once = Query(client="ab", page=7).by_column("age")
    assert once == Query(client="ab", sort="age", page=1)
    assert once.by_column("age") == Query(client="ab", sort="-age", page=1)
    assert once.by_column("age").by_column("age") == once
