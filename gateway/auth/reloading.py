"""Files that may change while the process runs, such as certificates and tokens, and whose volume may hang."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from gateway.errors import ConfigError
from gateway.threads import DaemonWorker, wait_done

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

T = TypeVar("T")

# A bundle of all public authorities has a quarter of this size.
MAX_FILE_BYTES = 1 << 20
# How long the start waits for the files, in seconds.
START_SECONDS = 5.0
# How long a handshake or request waits for the files, in seconds. While the volume hangs, only the first one waits.
READ_SECONDS = 1.0
# The most reads in a row of files that change while they are read.
MAX_READS = 10

_log = structlog.get_logger()


class InvalidFile(Exception):
    """The contents of a file are invalid. The message says why, and never quotes them."""

    def __init__(self, variable: str, why: str) -> None:
        super().__init__(f"{variable}: {why}")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """The files have new contents, which are valid."""

    value: T


@dataclass(frozen=True, slots=True)
class Invalid:
    """The files cannot be used."""

    why: str


class Unchanged:
    """The files have the same contents as before."""


UNCHANGED = Unchanged()


class ReloadingFiles(Generic[T]):
    """The result of `make` for some files, which is made again when their contents change.

    If that fails, the last valid result stays. A result that `make` returns counts only if the files have the same
    contents afterwards, so `make` may also read them by their paths. All methods are thread-safe.

    Callers get the contents as of their call or later. If reading takes longer than `READ_SECONDS`, they get the last
    valid result, and callers after them get it immediately until the read ends.

    Args:
        files: the paths, by the variables that set them.
        make: gets the contents by variable, and raises `InvalidFile`. It runs in the thread that reads the files,
            because opening a file on a stuck volume hangs.

    Raises:
        ConfigError: the files are unusable at the start, or cannot be read within `START_SECONDS`.
    """

    def __init__(self, files: Mapping[str, Path], make: Callable[[Mapping[str, bytes]], T]) -> None:
        self._files = files
        self._make = make
        # The contents that were read last, or why they could not be read. An equal time or size proves nothing.
        self._seen: Mapping[str, bytes] | Invalid | None = None
        # The variable and path that are read now, as the subject of messages.
        self._reading = describe(files)
        self._lock = threading.Lock()
        # The check that has not started, and the last one that has ended, whose future may not be done yet.
        self._next_check: Future[None] | None = None
        self._finished_check: Future[None] | None = None
        # True from the first check that takes too long to the end of the next one.
        self._stuck = False
        self._logged: Invalid | None = None
        self._thread = DaemonWorker("files")
        first = self._thread.run(self._reload)
        try:
            loaded = first.result(START_SECONDS)
        except TimeoutError:
            raise ConfigError(hangs(self._reading, START_SECONDS)) from None
        if isinstance(loaded, Invalid):
            raise ConfigError(loaded.why)
        assert isinstance(loaded, Loaded), "nothing was read before"  # noqa: S101 - otherwise a defect
        self._valid = loaded.value

    @property
    def last(self) -> T:
        """The last valid result, without reading the files."""
        return self._valid

    def latest(self) -> T:
        """Return the result for the files as they are now, or the last valid one. Blocks for up to `READ_SECONDS`.

        Each change is logged once, whether it is valid or not.
        """
        check = self._check()
        if not self._stuck:
            try:
                check.result(READ_SECONDS)
            except TimeoutError:
                self._give_up(check)
        return self._valid

    async def latest_async(self) -> T:
        """Return the same as `latest`, without blocking the event loop."""
        check = self._check()
        if not self._stuck:
            if await wait_done(check, READ_SECONDS):
                check.result()
            else:
                self._give_up(check)
        return self._valid

    def _check(self) -> Future[None]:
        """Return a check that has not started yet, so that it sees all changes before this call."""
        with self._lock:
            if self._next_check is None:
                self._next_check = self._thread.run(self._run_check)
            return self._next_check

    def _give_up(self, check: Future[None]) -> None:
        with self._lock:
            if check.done() or check is self._finished_check or self._stuck:
                return
            self._stuck = True
        _log.warning("files.invalid", why=hangs(self._reading, READ_SECONDS))

    def _run_check(self) -> None:
        with self._lock:
            check, self._next_check = self._next_check, None
        loaded = self._reload()
        if isinstance(loaded, Loaded):
            self._valid = loaded.value
        with self._lock:
            # In one step, because the future of the check is done only later.
            self._finished_check = check
            recovered, self._stuck = self._stuck, False
        if recovered:
            _log.info("files.readable_again", settings=sorted(self._files))
        self._log_change(loaded)

    def _log_change(self, loaded: Loaded[T] | Invalid | Unchanged) -> None:
        if isinstance(loaded, Loaded):
            self._logged = None
            _log.info("files.reloaded", settings=sorted(self._files))
        elif isinstance(loaded, Invalid) and loaded != self._logged:
            self._logged = loaded
            _log.warning("files.invalid", why=loaded.why)

    def _reload(self) -> Loaded[T] | Invalid | Unchanged:
        """Read the files until two reads find the same contents."""
        loaded: Loaded[T] | Invalid | Unchanged = UNCHANGED
        for _ in range(MAX_READS):
            contents = self._read()
            if contents == self._seen:
                return loaded
            self._seen = contents
            if isinstance(contents, Invalid):
                loaded = contents
                continue
            try:
                loaded = Loaded(self._make(contents))
            except InvalidFile as error:
                loaded = Invalid(str(error))
        # It equals no contents, so that the next check tries again.
        self._seen = Invalid(f"{self._reading} changes while it is read; replace the file in one step")
        return self._seen

    def _read(self) -> Mapping[str, bytes] | Invalid:
        contents = {}
        for variable, path in self._files.items():
            self._reading = f"{variable}: {path}"
            try:
                contents[variable] = read_regular(path)
            except (OSError, UnfitFileError) as error:
                return Invalid(f"{self._reading} {problem_of(error)}")
        return contents


class UnfitFileError(Exception):
    """A file is not a regular file, or too large. The message continues after the path."""


def read_regular(path: Path) -> bytes:
    """Return the contents of a regular file of at most 1 MiB. Raises `OSError` and `UnfitFileError`."""
    # Non-blocking, because opening a pipe without a writer would hang.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UnfitFileError("is not a regular file; name a regular file")
        pieces = []
        left = MAX_FILE_BYTES + 1
        while left and (piece := os.read(file, left)):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(file)
    if not left:
        raise UnfitFileError(f"has more than {MAX_FILE_BYTES} bytes; check that it is the right file")
    return b"".join(pieces)


def describe(files: Mapping[str, Path]) -> str:
    """Return variables and paths as the subject of a message."""
    return ", ".join(f"{variable}: {path}" for variable, path in files.items())


def problem_of(error: OSError | UnfitFileError) -> str:
    """Return why a file cannot be read, to follow its path in a message."""
    if isinstance(error, UnfitFileError):
        return str(error)
    return f"cannot be read ({error.strerror}); check the path and its permissions"


def hangs(subject: str, seconds: float) -> str:
    """Return the message for files that were not read within `seconds`."""
    return f"{subject} cannot be read within {seconds:g} s; check that the volume responds"
