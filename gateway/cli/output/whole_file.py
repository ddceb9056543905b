"""Write a file as a whole: readers see the old or the new contents, and a failure leaves the old ones."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_MODE = 0o666
"""Of a new file, without the bits of the umask."""

# The folder, its sticky bit, the owner of the file or a mount at its path prevents a replacement.
_NOT_REPLACEABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
# Another name of a stream that is open, and that must not become another file.
_OPEN_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


def write(file: Path, contents: bytes | bytearray) -> None:
    """Write a file as a whole, also if `file` is a link to it. A device or a pipe gets the contents directly.

    So does a file that can be written but not replaced, because of its folder or owner.

    Raises:
        OSError: It cannot be written. If it can be replaced, it is unchanged.

    """
    target = Path(os.path.realpath(file))
    if not str(file).startswith(_OPEN_STREAMS) and (file.is_file() or not file.exists()):
        try:
            replace(target, contents)
        except OSError as error:
            if error.errno not in _NOT_REPLACEABLE or not target.exists():
                raise
        else:
            return
    file.write_bytes(contents)


def replace(file: Path, contents: bytes | bytearray, mode: int | None = None) -> None:
    """Replace a regular file, or create it.

    `mode` is its new mode; without one, mode and owner stay.

    Raises:
        OSError: It cannot be replaced. It is unchanged, and nothing else is left.

    """
    before = file.stat() if mode is None and file.exists() else None
    # From the beginning, because a process that opened the new file could read it later.
    first = stat.S_IMODE(before.st_mode) if before else _MODE if mode is None else mode
    # Short, because the name of the file may be as long as possible.
    new = file.with_name(f".{secrets.token_hex(8)}")
    try:
        with open(new, "xb", opener=lambda path, flags: os.open(path, flags, first)) as opened:
            if before:
                _take_over(opened.fileno(), before)
            opened.write(contents)
            opened.flush()
            # Some file systems report a full disk only now.
            os.fsync(opened.fileno())
        new.replace(file)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _take_over(descriptor: int, before: os.stat_result) -> None:
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    # The umask removed bits, and so may have the change of the owner.
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
