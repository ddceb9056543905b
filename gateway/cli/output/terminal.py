"""Lines on standard error, and the result on standard output.

This module has no slow imports, because wrong usage is reported with it.
"""

from __future__ import annotations

import os
import sys
from typing import IO, Literal

from gateway.cli.output.formatting import clean, pretty_json

Style = Literal["", "green", "red"]

_LONGEST_SHOWN = 64 * 1024
_COLOURS: dict[Style, int] = {"green": 32, "red": 31}


def note(line: str) -> None:
    """Print a remark to standard error."""
    write_line(sys.stderr, line)


def problem(line: str) -> None:
    """Print a problem to standard error."""
    write_line(sys.stderr, line, "red")


def write_line(stream: IO[str], line: str, style: Style = "") -> None:
    """Print one line of any text."""
    text = clean(line)
    if style and _shows_colours(stream):
        text = f"\x1b[{_COLOURS[style]}m{text}\x1b[0m"
    stream.write(f"{text}\n")
    stream.flush()


def replayed_line(uid: int) -> str:
    """Return the line that says that a job was sent earlier."""
    job = f"job {uid}" if uid else "the job"
    return f"{job} was sent earlier with this --request-id; no second job was created"


def fits_terminal(size: int) -> bool:
    """Return False if standard output is a terminal, and a result of `size` bytes is too large for it."""
    return size <= _LONGEST_SHOWN or not sys.stdout.isatty()


def show_result(result: bytes | bytearray, save_command: str) -> None:
    """Print the result: formatted on a terminal, otherwise its own bytes and nothing else.

    `save_command` writes the result to a file.
    """
    if not result:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
    elif fits_terminal(len(result)):
        from rich.console import Console
        from rich.highlighter import JSONHighlighter
        from rich.text import Text

        text = Text(pretty_json(result))
        JSONHighlighter().highlight(text)
        Console().print(text, soft_wrap=True)
    else:
        note(f"the result has {len(result):,} bytes: {save_command}")


def is_terminal(stream: IO[str]) -> bool:
    """Return whether a stream can show moving lines."""
    # FORCE_COLOR does not count, because a bar is useless in a pipe.
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _shows_colours(stream: IO[str]) -> bool:
    # As Rich decides for the other lines.
    return not os.environ.get("NO_COLOR") and (bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream))
