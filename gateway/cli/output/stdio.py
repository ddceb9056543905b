"""The standard streams, and the signals that end a command, from the start of the process. It has no slow imports."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

STDIN, STDOUT, STDERR = 0, 1, 2

# A closed standard output rejects writes, so that a command notices. A closed standard error drops them.
_STANDINS = {STDIN: os.O_RDONLY, STDOUT: os.O_RDONLY, STDERR: os.O_WRONLY}


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALLED = 128


class OutputLost(Exception):
    """The output of a command could not be written.

    Attributes:
        reader_gone: True if the output is a pipe whose reader has left.

    """

    def __init__(self, output: str, error: OSError) -> None:
        super().__init__(f"{output} cannot be written: {error.strerror}")
        self.reader_gone = error.errno == errno.EPIPE


def open_missing() -> None:
    """Open the standard streams that the process was started without.

    Otherwise the next files and sockets would get their numbers, and grpc would abort.
    """
    for fd, flags in _STANDINS.items():
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is the missing one, because those below are open.
            os.set_inheritable(os.open(os.devnull, flags), True)
    # Python has None instead of a stream that was closed at its start.
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = sys.stdout or _text(io.FileIO(STDOUT, "wb", closefd=False), "utf-8", "replace")
    sys.stderr = sys.stderr or _text(io.FileIO(STDERR, "wb", closefd=False), "utf-8", "backslashreplace")


class _Guarded(io.FileIO):
    """Standard output or error, which never raises: after the first error it drops all output.

    Therefore neither a thread nor the end of the interpreter reports a lost stream; `check` does it once.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override] # any buffer
        while self.error is None:
            try:
                written = super().write(data)
            except OSError as error:
                self.error = error
            else:
                if written is not None:
                    return written
                # Another process made the shared pipe or terminal non-blocking.
                select.select((), (self.fileno(),), ())
        return len(data)


def guard() -> None:
    """Make standard output and error never raise; `check` reports lost output."""
    sys.stdout = _text(_Guarded(STDOUT), sys.stdout.encoding, "replace")
    sys.stderr = _text(_Guarded(STDERR), sys.stderr.encoding, "backslashreplace")


def check() -> None:
    """Raise `OutputLost` if standard output did not accept all output."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Guarded):
        sys.stdout.flush()
        if raw.error is not None:
            raise OutputLost("standard output", raw.error)


def _text(raw: io.FileIO, encoding: str, errors: str) -> io.TextIOWrapper:
    # A character that the locale lacks must not end the command.
    line_buffering = raw.fileno() == STDERR or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=line_buffering)


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C that ends a command.

    Attributes:
        number: The signal.

    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def interrupt_code() -> int:
    """Return the exit code for the `KeyboardInterrupt` that is being handled, as of a shell after the signal."""
    error = sys.exception()
    return _SIGNALLED + error.number if isinstance(error, Stopped) else INTERRUPTED


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(_SIGNALLED + number)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


def leave_on_interrupt() -> None:
    """Make Ctrl-C, SIGTERM and SIGHUP leave immediately without a traceback, also during imports and at the end."""
    for number in _INTERRUPTS:
        # A process that was started with one ignored, as a background job or by nohup, ignores it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make these signals raise `KeyboardInterrupt` within, instead of leaving immediately."""
    leaving = [number for number in _INTERRUPTS if signal.getsignal(number) is _leave]
    for number in leaving:
        # asyncio replaces the handler of Python, and no other.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _stop)
    try:
        yield
    finally:
        for number in leaving:
            signal.signal(number, _leave)
