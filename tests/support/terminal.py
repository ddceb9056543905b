"""A terminal: a pty whose other end is an emulator with a screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
from itertools import groupby
from typing import TYPE_CHECKING, Self

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAIT_SECONDS = 60


class Terminal:
    """A terminal with a screen of `columns` and `rows`. Use it as a context manager.

    Attributes:
        fd: The file descriptor for the programs on it.
    """

    def __init__(self, columns: int, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self._master, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self._changed = threading.Condition()
        self._raw = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._marks = 0
        self._file = os.fdopen(self.fd, "w", encoding="utf-8", closefd=False)

    def console(self, clock: Callable[[], float]) -> Console:
        """Return a console on this terminal, with 16 colours."""
        self._file = os.fdopen(os.dup(self.fd), "w", encoding="utf-8")
        return Console(
            file=self._file, width=self.columns, height=self.rows, color_system="standard", get_time=clock, _environ={}
        )

    def lines(self) -> list[str]:
        """Return the lines on the screen with those that scrolled out, without empty ones at the end."""
        self._catch_up()
        with self._changed:
            earlier = ["".join(line[column].data for column in range(self.columns)) for line in self.screen.history.top]
            shown = [line.rstrip() for line in (*earlier, *self.screen.display)]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def text(self) -> Text:
        """Return what `lines` returns, with its styles."""
        shown = Text()
        lines = self.lines()
        with self._changed:
            rows = [*self.screen.history.top, *(self.screen.buffer[row] for row in range(self.rows))]
            for row, line in zip(rows, lines, strict=False):
                for style, run in groupby((row[column] for column in range(len(line))), _style):
                    shown.append("".join(each.data for each in run), style)
                shown.append("\n")
        shown.rstrip()
        return shown

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows a text."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in "\n".join(self.screen.display), MAX_WAIT_SECONDS)

    def raw(self) -> bytes:
        """Return everything that was written."""
        self._catch_up()
        return self._raw

    def _catch_up(self) -> None:
        # A title is the mark up to which the emulator has read.
        self._marks += 1
        mark = f"mark {self._marks}"
        # Through the file of the console, because the thread of a display may be in the middle of a sequence.
        self._file.write(f"\x1b]2;{mark}\x07")
        self._file.flush()
        with self._changed:
            assert self._changed.wait_for(lambda: self.screen.title == mark, MAX_WAIT_SECONDS)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # how Linux tells the end
                return
            with self._changed:
                self._raw += piece
                self._stream.feed(piece)
                self._changed.notify_all()

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        self._reader.join(MAX_WAIT_SECONDS)
        os.close(self._master)


def _style(character: pyte.screens.Char) -> Style:
    # The names of pyte for some of the 16 colours.
    colour = {"brown": "yellow", "default": None}.get(character.fg, character.fg.replace("bright", "bright_"))
    return Style(color=colour, bold=character.bold)
