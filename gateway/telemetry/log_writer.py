"""Write log lines to a file descriptor from a thread, so that no caller waits for a slow or broken reader."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# The queue holds a burst. Lines of an outage that lasts a minute do not fit, and are counted.
MAX_WAITING_LINES = 10_000
MAX_WAITING_BYTES = 8 << 20
# The size of one write. A reader at 4 kB/s then still gets the notice of lost lines within seconds.
BATCH_BYTES = 16 << 10
# The pause between two writes. Waking the thread for each line of a busy gateway would double the cost of the line.
PAUSE_SECONDS = 0.02
# The time between two notices of lost lines, and between two attempts to write one.
NOTICE_SECONDS = 1.0


class LineWriter:
    """A bounded queue of lines and a daemon thread that writes them to `fd`.

    A line is lost if the queue is full or the write fails. When writes succeed again, the thread writes a line with the
    number of lost lines: `notice(count)`. Safe to use from any thread.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._notice = notice
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        # Reentrant, because a finalizer may log while this thread is in `write`.
        self._mutex = threading.RLock()
        self._wake = threading.Semaphore(0)
        self._asleep = False
        self._written = threading.Condition()
        self._flushing = False
        self._busy = False
        self._inside_line = False
        self._dropped = 0
        self._failed = 0
        self._reported = 0
        self._reported_at = float("-inf")
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    @property
    def lost(self) -> int:
        """The number of lines lost since the start."""
        return self._dropped + self._failed

    def write(self, line: bytes) -> None:
        """Queue a line that ends with a line feed. Never blocks and never raises."""
        with self._mutex:
            if len(self._lines) >= MAX_WAITING_LINES or self._bytes + len(line) > MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._wake.release()

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the queue is empty. Return whether it is."""
        self._flushing = True
        with self._written:
            return self._written.wait_for(lambda: not (self._lines or self._busy), timeout)

    def _notice_due(self) -> bool:
        if self.lost == self._reported:
            return False
        last_chance = self._flushing and not self._lines
        return last_chance or time.monotonic() >= self._reported_at + NOTICE_SECONDS

    def _run(self) -> None:
        while True:
            batch = self._take()
            if batch:
                self._write_batch(batch)
            if self._notice_due():
                self._write_notice()
            with self._written:
                self._busy = False
                self._written.notify_all()
            if not batch:
                self._sleep()
            elif not self._flushing:
                time.sleep(PAUSE_SECONDS)

    def _sleep(self) -> None:
        with self._mutex:
            self._asleep = not self._lines
        if self._asleep:
            self._wake.acquire(timeout=NOTICE_SECONDS if self.lost > self._reported else None)

    def _take(self) -> list[bytes]:
        batch, size = [], 0
        with self._mutex:
            self._busy = bool(self._lines)
            while self._lines and size < BATCH_BYTES:
                batch.append(self._lines.popleft())
                size += len(batch[-1])
            self._bytes -= size
        return batch

    def _write_batch(self, batch: list[bytes]) -> None:
        written = self._write_out(b"".join(batch))
        for line in batch:
            written -= len(line)
            if written < 0:
                self._failed += 1

    def _write_notice(self) -> None:
        lost, self._reported_at = self.lost, time.monotonic()
        line = self._notice(lost - self._reported)
        if self._write_out(line) == len(line):
            self._reported = lost

    def _write_out(self, data: bytes) -> int:
        """Write `data`, and return the number of its bytes that were written; fewer than all after an error."""
        # A failed write may have left half a line, and the next line must not become part of it.
        start = b"\n" if self._inside_line else b""
        view = memoryview(start + data)
        written = 0
        while written < len(view):
            try:
                written += os.write(self._fd, view[written:])
            except BlockingIOError:
                # Another process made the shared pipe or terminal non-blocking.
                _wait_until_writable(self._fd)
            except OSError:
                break
        if written:
            self._inside_line = view[written - 1] != ord("\n")
        return written - len(start)


def _wait_until_writable(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    poller.poll(PAUSE_SECONDS * 1000)
