"""Lines for a descriptor that is slow, blocked, full or closed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.telemetry import log_writer
from gateway.telemetry.log_writer import LineWriter
from tests.support.paths import ROOT


@pytest.fixture
def pipe() -> tuple[int, int]:
    """A small pipe. It stays open, because the thread of a writer never ends and the number could be reused."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def notice(count: int) -> bytes:
    return b"lost %d\n" % count


def test_lines_arrive_in_their_order(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, notice)
    for number in range(100):
        writer.write(b"%d\n" % number)
    assert writer.flush(60)
    assert os.read(reader, 4096).split() == [b"%d" % number for number in range(100)]
    assert writer.lost == 0


def test_no_one_waits_for_a_blocked_reader(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, notice)
    sent = 3 * log_writer.MAX_WAITING_LINES
    for number in range(sent):
        writer.write(b"line %d\n" % number)
    assert not writer.flush(0.01)
    assert 0 < writer.lost < sent
    told = arrived = 0
    rest = b""
    while told + arrived < sent:
        *lines, rest = (rest + os.read(reader, 4096)).split(b"\n")
        told += sum(int(line.split()[1]) for line in lines if line.startswith(b"lost"))
        arrived += sum(line.startswith(b"line") for line in lines)
    assert told == writer.lost


def test_large_lines_that_wait_are_bounded_too(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], notice)
    line = bytes(log_writer.MAX_WAITING_BYTES // 8) + b"\n"
    for _ in range(10):
        writer.write(line)
    assert writer.lost > 0


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.set_blocking(fd, False)
    writer = LineWriter(fd, notice)
    for number in range(1_000):
        writer.write(b"line %d\n" % number)
    got = b""
    while got.count(b"\n") < 1_000:
        got += os.read(reader, 4096)
    assert writer.lost == 0


def test_a_truncated_line_does_not_damage_the_next(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from gateway.telemetry.log_writer import LineWriter
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
writer = LineWriter(1, lambda lost: b"lost %d\\n" % lost)
for number in range(3):
    writer.write(b"line number %d\\n" % number)
writer.flush(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.write(b"line number 3\\n")
writer.flush(60)
"""
    path = tmp_path / "log"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=file, check=True, timeout=60)  # noqa: S603
    whole, cut, *rest = path.read_text().splitlines()
    assert (whole, cut) == ("line number 0", "line number")
    assert sorted(rest) == ["line number 3", "lost 2"]


def test_lost_lines_are_reported_without_another_line(pipe: tuple[int, int]) -> None:
    gone, broken = os.pipe()
    os.close(gone)
    writer = LineWriter(broken, notice)
    writer.write(b"line\n")
    while not writer.lost:
        time.sleep(0)
    os.dup2(pipe[1], broken)
    assert os.read(pipe[0], 4096) == b"lost 1\n"
