"""Files that options name, read with a limit of size, so that a device in place of a file does not fill the memory."""

from pathlib import Path

# A bundle of all public authorities has a quarter of this; a token and a key have much less.
MAX_CREDENTIAL_BYTES = 1 << 20
# The gateway takes 8 MiB of JSON; white space may come on top.
MAX_PARAMS_BYTES = 64 << 20


class FileTooLargeError(OSError):
    """The file has more bytes than any of its kind."""


def read_bounded(file: Path, most: int) -> bytes:
    """Return the contents of a file, or of a pipe, of at most `most` bytes. Raises `OSError`."""
    with file.open("rb") as opened:
        contents = opened.read(most + 1)
    if len(contents) > most:
        raise FileTooLargeError(None, f"it has more than {most:,} bytes; is it the right file?")
    return contents
