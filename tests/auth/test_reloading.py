"""Files that are read again when they change."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog

from gateway.auth import reloading
from gateway.auth.reloading import InvalidFile, ReloadingFiles
from gateway.errors import ConfigError
from tests.support.stuck_file import StuckFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping
    from pathlib import Path

    Logged = list[dict[str, Any]]


class Pair:
    """Two files that are valid if their contents are equal. `during` is called during the next check of them."""

    def __init__(self, folder: Path) -> None:
        self.files = {"ONE": folder / "one", "OTHER": folder / "other"}
        self.during: Callable[[], object] = bool
        self.checks = 0

    def put(self, *contents: str) -> None:
        for file, content in zip(self.files.values(), contents, strict=True):
            file.write_text(content)

    def make(self, contents: Mapping[str, bytes]) -> bytes:
        self.checks += 1
        during, self.during = self.during, bool
        during()
        if contents["ONE"] != contents["OTHER"]:
            raise InvalidFile("OTHER", "it is not the same as that of ONE")
        return contents["ONE"]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    made.put("a", "a")
    return made


def test_equal_contents_are_checked_once(pair: Pair, logged: Logged) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    assert [reloaded.latest() for _ in range(3)] == [b"a"] * 3
    pair.put("a", "a")
    assert reloaded.latest() == b"a"
    assert pair.checks == 1
    assert logged == []


def test_each_change_is_logged_once_and_only_a_valid_one_counts(pair: Pair, logged: Logged) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    told = []
    for contents, good in ((("b", "a"), b"a"), (("b", "b"), b"b"), (("", "c"), b"b"), (("b", "b"), b"b")):
        pair.put(*contents)
        assert [reloaded.latest() for _ in range(3)] == [good] * 3
        told.append([line["event"] for line in logged])
        logged.clear()
    unusable, changed = ["files.invalid"], ["files.reloaded"]
    assert told == [unusable, changed, unusable, changed]


def test_files_that_change_during_a_read_are_read_again(pair: Pair, logged: Logged) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    # One file has been replaced, and the other has not yet.
    pair.put("b", "a")
    pair.during = lambda: pair.put("b", "b")
    assert reloaded.latest() == b"b"
    pair.put("c", "c")
    pair.during = lambda: pair.put("c", "d")
    assert reloaded.latest() == b"b"
    assert [line["log_level"] for line in logged] == ["info", "warning"]


def test_unusable_files_stop_the_start(pair: Pair) -> None:
    pair.put("a", "b")
    with pytest.raises(ConfigError, match=r"^OTHER: it is not the same as that of ONE$"):
        ReloadingFiles(pair.files, pair.make)
    pair.files["ONE"].unlink()
    with pytest.raises(ConfigError, match=r"^ONE: .*/one cannot be read \(No such file or directory\); check"):
        ReloadingFiles(pair.files, pair.make)


# Unfit files


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def circular(path: Path) -> None:
    path.symlink_to(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


UNFIT: dict[Callable[[Path], None], str] = {
    pipe: "is not a regular file; name a regular file",
    endless: "is not a regular file; name a regular file",
    folder: "is not a regular file; name a regular file",
    dangling: "cannot be read (No such file or directory); check the path and its permissions",
    circular: "cannot be read (Too many levels of symbolic links); check the path and its permissions",
    huge: "has more than 1048576 bytes; check that it is the right file",
}


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda each: each.__name__)
def test_an_unfit_file_stops_the_start_and_no_reload(pair: Pair, logged: Logged, unfit: Callable[[Path], None]) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    path = pair.files["OTHER"]
    path.unlink()
    unfit(path)
    why = f"OTHER: {path} {UNFIT[unfit]}"
    assert [reloaded.latest() for _ in range(3)] == [b"a"] * 3
    assert [line.get("why") for line in logged] == [why]
    with pytest.raises(ConfigError) as raised:
        ReloadingFiles(pair.files, pair.make)
    assert str(raised.value) == why
    path.rmdir() if path.is_dir() else path.unlink()
    pair.put("b", "b")
    assert reloaded.latest() == b"b"


def test_files_that_never_stop_changing_are_logged_once(pair: Pair, logged: Logged) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    count = itertools.count()

    def change() -> None:
        content = f"version {next(count)}"
        pair.put(content, content)
        pair.during = change

    change()
    assert [reloaded.latest() for _ in range(3)] == [b"a"] * 3
    (line,) = logged
    assert "changes while it is read; replace the file in one step" in line["why"]
    pair.during = bool
    pair.put("b", "b")
    assert reloaded.latest() == b"b"


async def test_a_file_that_hangs_delays_one_reader_and_no_loop(
    pair: Pair, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    before = readers()
    stuck = StuckFile(pair.files["OTHER"], monkeypatch)
    pair.put("b", "b")
    monkeypatch.setattr(reloading, "READ_SECONDS", 0.5)
    ticks = itertools.count()
    ticking = asyncio.create_task(tick(ticks))
    assert await reloaded.latest_async() == b"a"
    assert next(ticks) > 1, "the event loop went on"
    ticking.cancel()
    # Later calls do not wait; otherwise this would hang.
    monkeypatch.setattr(reloading, "READ_SECONDS", 3600.0)
    assert [await reloaded.latest_async() for _ in range(3)] == [b"a"] * 3
    assert reloaded.latest() == b"a"
    assert readers() <= before, "and no more threads hang"
    (line,) = logged
    assert line["log_level"] == "warning"
    assert line["why"] == f"OTHER: {pair.files['OTHER']} cannot be read within 0.5 s; check that the volume responds"
    stuck.back.set()
    async with asyncio.timeout(20):
        while await reloaded.latest_async() != b"b" or len(logged) < 3:
            pass
    assert sorted(line["event"] for line in logged[1:]) == ["files.readable_again", "files.reloaded"]


def readers() -> int:
    return [each.name for each in threading.enumerate()].count("files")


async def tick(ticks: Iterator[int]) -> None:
    while True:
        next(ticks)
        await asyncio.sleep(0.001)


def test_files_that_hang_at_the_start_are_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = StuckFile(pair.files["OTHER"], monkeypatch)
    monkeypatch.setattr(reloading, "START_SECONDS", 0.5)
    with pytest.raises(ConfigError) as raised:
        ReloadingFiles(pair.files, pair.make)
    why = f"OTHER: {pair.files['OTHER']} cannot be read within 0.5 s; check that the volume responds"
    assert str(raised.value) == why
    stuck.back.set()


def test_a_check_that_ends_at_the_timeout_blocks_no_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    reloaded = ReloadingFiles(pair.files, pair.make)
    told: list[str] = []
    given_up = threading.Event()

    def tell(_: object, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        # The check has read everything, but its future is not done before this line is written.
        if not told:
            told.append(event["event"])
            given_up.wait()
        else:
            told.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[tell])
    monkeypatch.setattr(reloading, "READ_SECONDS", 0.1)
    pair.put("b", "b")
    assert reloaded.latest() == b"b"
    given_up.set()
    monkeypatch.setattr(reloading, "READ_SECONDS", 3600.0)
    pair.put("c", "c")
    assert reloaded.latest() == b"c"
    assert told == ["files.reloaded", "files.reloaded"]
