"""Files that somebody else writes anew while the process runs, such as certificates and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from gateway.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

_log = structlog.get_logger()


class FileUnusable(Exception):
    """What a file holds cannot be used; the message says why, and never what it holds."""

    def __init__(self, variable: str, why: str) -> None:
        super().__init__(f"{variable}: {why}")


class LastGood(Generic[T]):
    """What `make` makes of some files, made anew when what they hold changes; the last good one where that fails.

    `files` are named by the variables that set them. `make` gets the bytes of each by that name, and raises
    `FileUnusable`; it may also read the files by their paths, for what it made counts only if they hold the same
    afterwards. Raises `ConfigError` where the files cannot be used to begin with. Not for several threads at once.
    """

    def __init__(self, files: Mapping[str, Path], make: Callable[[Mapping[str, bytes]], T]) -> None:
        self._files = files
        self._make = make
        # The bytes, and not the times, of the files: an equal time or size proves nothing.
        self._seen: Mapping[str, bytes] | str | None = None
        made = self._changed()
        if not isinstance(made, tuple):
            raise ConfigError(made)
        (self._good,) = made

    def latest(self) -> T:
        """What was made of the files as they are now, or as they last were when they were good.

        A change is logged once, whether it is good or not.
        """
        made = self._changed()
        if isinstance(made, tuple):
            (self._good,) = made
            _log.info("files changed", settings=sorted(self._files))
        elif made is not None:
            _log.warning("files cannot be used, those before them stay in use", why=made)
        return self._good

    def _changed(self) -> tuple[T] | str | None:
        """What was made of the files, or why it could not be; None where they hold what was seen before."""
        made: tuple[T] | str | None = None
        while (contents := self._read()) != self._seen:
            self._seen = contents
            if isinstance(contents, str):
                made = contents
                continue
            try:
                made = (self._make(contents),)
            except FileUnusable as error:
                made = str(error)
        return made

    def _read(self) -> Mapping[str, bytes] | str:
        contents = {}
        for variable, path in self._files.items():
            try:
                contents[variable] = path.read_bytes()
            except OSError as error:
                return f"{variable}: {path} cannot be read: {error.strerror}"
        return contents
