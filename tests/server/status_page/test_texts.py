"""Durations and numbers as people read them."""

from __future__ import annotations

import pytest

from gateway.server.status_page.texts import age, count, duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0454, "45 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (9.96, "10 s"),
        (3, "3 s"),
        (3.24, "3.2 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (86_399.9, "1 d"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_have_one_or_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_negative_duration_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"negative \(got -0.1 s\)"):
        duration(-0.1)


def test_ages_have_whole_seconds() -> None:
    assert [age(each) for each in (0.2, 0.7, 1.4, 61.2)] == ["0 s", "1 s", "1 s", "1 min 1 s"]


def test_sizes_have_binary_units() -> None:
    sizes = (0, 1_023, 1_024, 1_536, (1 << 20) - 1, 1 << 30, 5 << 40)
    assert [size(each) for each in sizes] == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 MiB", "1 GiB", "5120 GiB"]


def test_a_count_has_its_noun() -> None:
    assert [count(each, "job", "jobs") for each in (0, 1, 5_000)] == ["0 jobs", "1 job", "5,000 jobs"]
