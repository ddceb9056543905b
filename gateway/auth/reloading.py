"""Files that change while the process runs, such as certificates and tokens, and that may hang when they are read."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from gateway.errors import ConfigError
from gateway.threads import Daemon, wait_done

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

T = TypeVar("T")

# A bundle of all public authorities has a quarter of this.
MAX_FILE_BYTES = 1 << 20
# How long the start waits for the files.
START_SECONDS = 5.0
# How long a handshake or a request waits for the files. Only the first one that hangs waits; those after it do not.
READ_SECONDS = 1.0
# How often files that change while they are read are read again at once.
MOST_READS = 10

_log = structlog.get_logger()


class InvalidFile(Exception):
    """The contents of a file cannot be used; the message says why, and never quotes them."""

    def __init__(self, variable: str, why: str) -> None:
        super().__init__(f"{variable}: {why}")


class ReloadingFiles(Generic[T]):
    """The result of `make` for some files, made again when their contents change; the last good one if that fails.

    `files` are named by the variables that set them. `make` gets the bytes of each by that name, and raises
    `InvalidFile`. It may also read the files by their paths: its result counts only if they hold the same bytes
    afterwards. It runs in a thread, as does all reading, because opening a file on a stuck mount hangs.

    Callers get the contents as they were at the call or later. If reading takes longer than `READ_SECONDS`, they get
    the last good result, and those after them get it at once until reading ends. All methods are thread-safe.

    Raises `ConfigError` if the files cannot be used at the start, or not within `START_SECONDS`.
    """

    def __init__(self, files: Mapping[str, Path], make: Callable[[Mapping[str, bytes]], T]) -> None:
        self._files = files
        self._make = make
        # The bytes, and not the times, of the files: an equal time or size proves nothing.
        self._seen: Mapping[str, bytes] | str | None = None
        # For messages: the variable and the path.
        self._reading = ", ".join(f"{variable}: {path}" for variable, path in files.items())
        self._lock = threading.Lock()
        self._waiting: Future[None] | None = None
        self._ended: Future[None] | None = None
        self._stuck = False
        self._told: str | None = None
        self._thread = Daemon("files")
        first = self._thread.run(self._changed)
        try:
            made = first.result(START_SECONDS)
        except TimeoutError:
            raise ConfigError(
                f"{self._reading} cannot be read: no answer within {START_SECONDS:g} s; is its volume there?"
            ) from None
        if not isinstance(made, tuple):
            raise ConfigError(made)
        (self._good,) = made

    @property
    def last(self) -> T:
        """The last good result, without a look at the files."""
        return self._good

    def latest(self) -> T:
        """Return the result for the files as they are now, or the last good one; blocks for up to `READ_SECONDS`.

        Each change is logged once, good or not.
        """
        check = self._check()
        if not self._stuck:
            try:
                check.result(READ_SECONDS)
            except TimeoutError:
                self._give_up(check)
        return self._good

    async def latest_async(self) -> T:
        """As `latest`, without blocking the event loop."""
        check = self._check()
        if not self._stuck:
            if await wait_done(check, READ_SECONDS):
                check.result()
            else:
                self._give_up(check)
        return self._good

    def _check(self) -> Future[None]:
        """A check that has not begun yet, so that it sees all changes before this call."""
        with self._lock:
            if self._waiting is None:
                self._waiting = self._thread.run(self._look)
            return self._waiting

    def _give_up(self, check: Future[None]) -> None:
        with self._lock:
            if check.done() or check is self._ended or self._stuck:
                return
            self._stuck = True
        _log.warning(
            "files cannot be used, those before them stay in use",
            why=f"{self._reading} cannot be read: no answer within {READ_SECONDS:g} s",
        )

    def _look(self) -> None:
        with self._lock:
            check, self._waiting = self._waiting, None
        made = self._changed()
        if isinstance(made, tuple):
            (self._good,) = made
        with self._lock:
            # In one step, because the future says later that the check is done.
            self._ended = check
            recovered, self._stuck = self._stuck, False
        if recovered:
            _log.info("files can be read again", settings=sorted(self._files))
        self._tell(made)

    def _tell(self, made: tuple[T] | str | None) -> None:
        if isinstance(made, tuple):
            self._told = None
            _log.info("files changed", settings=sorted(self._files))
        elif made is not None and made != self._told:
            self._told = made
            _log.warning("files cannot be used, those before them stay in use", why=made)

    def _changed(self) -> tuple[T] | str | None:
        """The result for the files, or why there is none; None if they hold what was seen before."""
        made: tuple[T] | str | None = None
        for _ in range(MOST_READS):
            contents = self._read()
            if contents == self._seen:
                return made
            self._seen = contents
            if isinstance(contents, str):
                made = contents
                continue
            try:
                made = (self._make(contents),)
            except InvalidFile as error:
                made = str(error)
        # Equal to no contents, so that the next check reads them again.
        self._seen = f"{self._reading} cannot be used: it changes all the time; replace the file in one step"
        return self._seen

    def _read(self) -> Mapping[str, bytes] | str:
        contents = {}
        for variable, path in self._files.items():
            self._reading = f"{variable}: {path}"
            try:
                contents[variable] = read_regular(path)
            except OSError as error:
                return f"{self._reading} cannot be read: {error.strerror}"
            except UnfitFileError as error:
                return f"{self._reading} {error}"
        return contents


class UnfitFileError(Exception):
    """A file is of the wrong kind or too large; the message says which."""


def read_regular(path: Path) -> bytes:
    """Return the contents of a regular file of at most 1 MiB. Raises `OSError` and `UnfitFileError`."""
    # A pipe without a writer would hang the open.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UnfitFileError("is not a regular file; name one")
        pieces = []
        room = MAX_FILE_BYTES + 1
        while room and (piece := os.read(file, room)):
            pieces.append(piece)
            room -= len(piece)
    finally:
        os.close(file)
    if not room:
        raise UnfitFileError(f"has more than {MAX_FILE_BYTES} bytes; is it the right file?")
    return b"".join(pieces)
