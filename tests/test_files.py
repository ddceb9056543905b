from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import ConfigError
from gateway.files import FileUnusable, LastGood

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Logged = list[dict[str, Any]]


class Pair:
    """Two files that are good where they hold the same; `during` is called in the middle of the next look at them."""

    def __init__(self, folder: Path) -> None:
        self.files = {"ONE": folder / "one", "OTHER": folder / "other"}
        self.during: Callable[[], object] = bool
        self.looks = 0

    def put(self, *contents: str) -> None:
        for file, content in zip(self.files.values(), contents, strict=True):
            file.write_text(content)

    def make(self, contents: Mapping[str, bytes]) -> bytes:
        self.looks += 1
        during, self.during = self.during, bool
        during()
        if contents["ONE"] != contents["OTHER"]:
            raise FileUnusable("OTHER", "it is not the same as that of ONE")
        return contents["ONE"]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    made.put("a", "a")
    return made


def test_files_that_hold_the_same_are_looked_at_once(pair: Pair, logged: Logged) -> None:
    last_good = LastGood(pair.files, pair.make)
    assert [last_good.latest() for _ in range(3)] == [b"a"] * 3
    pair.put("a", "a")
    assert last_good.latest() == b"a"
    assert pair.looks == 1
    assert logged == []


def test_each_change_is_told_once_and_only_a_good_one_counts(pair: Pair, logged: Logged) -> None:
    last_good = LastGood(pair.files, pair.make)
    told = []
    for contents, good in ((("b", "a"), b"a"), (("b", "b"), b"b"), (("", "c"), b"b"), (("b", "b"), b"b")):
        pair.put(*contents)
        assert [last_good.latest() for _ in range(3)] == [good] * 3
        told.append([line["event"] for line in logged])
        logged.clear()
    unusable, changed = ["files cannot be used, those before them stay in use"], ["files changed"]
    assert told == [unusable, changed, unusable, changed]


def test_what_changes_while_it_is_looked_at_counts_as_it_is_afterwards(pair: Pair, logged: Logged) -> None:
    last_good = LastGood(pair.files, pair.make)
    # One half has been exchanged, and the other is on its way.
    pair.put("b", "a")
    pair.during = lambda: pair.put("b", "b")
    assert last_good.latest() == b"b"
    pair.put("c", "c")
    pair.during = lambda: pair.put("c", "d")
    assert last_good.latest() == b"b"
    assert [line["log_level"] for line in logged] == ["info", "warning"]


def test_files_that_are_no_use_to_begin_with_are_refused(pair: Pair) -> None:
    pair.put("a", "b")
    with pytest.raises(ConfigError, match=r"^OTHER: it is not the same as that of ONE$"):
        LastGood(pair.files, pair.make)
    pair.files["ONE"].unlink()
    with pytest.raises(ConfigError, match=r"^ONE: .*/one cannot be read: No such file or directory$"):
        LastGood(pair.files, pair.make)
