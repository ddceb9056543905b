"""Files that options name, read with a limit of size: a device in the place of a file must not fill the memory."""

import sys
from pathlib import Path
from typing import BinaryIO

# A token has at most 8 KiB.
MAX_TOKEN_BYTES = 1 << 20
# The gateway accepts 8 MiB of JSON, and white space may be around it.
MAX_PARAMS_BYTES = 64 << 20


def exists(file: Path) -> bool:
    """Return whether a file exists. A text that is too long for a path is no file, too."""
    try:
        return file.exists()
    except OSError:
        return False


class FileTooLargeError(OSError):
    """The file is larger than any of its kind."""


def read_bounded(file: Path, limit: int) -> bytes:
    """Return the contents of a file or a pipe, at most `limit` bytes.

    Raises:
        OSError: The file cannot be read, or is larger.

    """
    with file.open("rb") as opened:
        return _read(opened, limit)


def read_stdin(limit: int) -> bytes:
    """Return what standard input has, at most `limit` bytes.

    Raises:
        OSError: It cannot be read, or is larger.

    """
    return _read(sys.stdin.buffer, limit)


def _read(opened: BinaryIO, limit: int) -> bytes:
    contents = opened.read(limit + 1)
    if len(contents) > limit:
        raise FileTooLargeError(None, f"it has more than {limit:,} bytes; check that it is the right file")
    return contents
