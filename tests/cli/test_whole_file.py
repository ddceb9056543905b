"""Files that are written as a whole: on failure the old contents stay, and nothing else is left."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.cli.output.whole_file import replace, write

if TYPE_CHECKING:
    from collections.abc import Iterator

OLD, NEW = b'{"old": 1}', b"[" + b"1, " * 1000 + b"1]"
NOBODY = 65_534


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """Limit the size of the files that this process writes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let this process write to the files of a folder, but create none in it. The mode does not stop root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        else:
            folder.chmod(0o755)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, is_link: bool) -> None:
    real = tmp_path / "real.json"
    real.write_bytes(OLD)
    file = tmp_path / "link.json" if is_link else real
    if is_link:
        file.symlink_to(real)
    before = sorted(tmp_path.iterdir())
    with files_of(100), pytest.raises(OSError, match="File too large"):
        write(file, NEW)
    assert real.read_bytes() == OLD
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with files_of(100), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "new.json", NEW)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(OLD)

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(file, NEW)
    assert file.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_one_and_the_mode_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_bytes(OLD)
    real.chmod(0o646)
    link.symlink_to(real.name)
    inode = real.stat().st_ino
    write(link, NEW)
    assert link.is_symlink()
    assert (real.read_bytes(), stat.S_IMODE(real.stat().st_mode)) == (NEW, 0o646)
    assert real.stat().st_ino != inode, "a reader that has the old file open sees no mixture"


def test_a_link_to_a_new_file_creates_that_file(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("new.json")
    write(link, NEW)
    assert link.is_symlink()
    assert (tmp_path / "new.json").read_bytes() == NEW


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "new.json", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


def test_a_file_is_never_readable_by_more_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(OLD)
    file.chmod(0o600)
    modes = []
    create = os.open

    def noted(path: str, flags: int, mode: int) -> int:
        descriptor = create(path, flags, mode)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", noted)
    write(file, NEW)
    replace(tmp_path / "new.json", NEW, 0o600)
    assert modes == [0o600, 0o600]


def test_a_pipe_and_a_device_get_the_contents(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe, NEW)
    reader.join()
    assert read == [NEW]
    assert list(tmp_path.iterdir()) == [pipe]
    write(Path("/dev/null"), NEW)
    assert Path("/dev/null").is_char_device()


def test_a_stream_that_is_open_stays_the_same_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        write(Path(f"/proc/self/fd/{out.fileno()}"), NEW)
        assert os.fstat(out.fileno()).st_size == len(NEW)


def test_a_file_that_cannot_be_replaced_is_written_in_place() -> None:
    # The folders of pytest cannot be entered by others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "file.json"
        file.write_bytes(OLD)
        file.chmod(0o666)
        inode = file.stat().st_ino
        with read_only(folder):
            write(file, NEW)
            with pytest.raises(PermissionError):
                write(folder / "new.json", NEW)
        assert (file.read_bytes(), file.stat().st_ino) == (NEW, inode)
        assert list(folder.iterdir()) == [file]
