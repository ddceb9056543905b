"""Change the file of the contexts, and keep the comments and the order of its owner."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import tempfile
import tomllib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from gateway.cli.options import contexts
from gateway.errors import ConfigError
from gateway.toml_file import TomlFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping


def change(edit: Callable[[MutableMapping[str, Any]], None]) -> None:
    """Change the contents of the file with `edit`, which gets them twice: with the comments, and as plain values.

    Another process that changes the file waits for this one. Readers see the old or the new file.

    Raises:
        ConfigError: The file has a mistake, before or after the change, or cannot be written.

    """
    path = contexts.path()
    if path is None:
        raise ConfigError("there is no home directory for the config file; set XDG_CONFIG_HOME to a folder")
    # If it is a link, as in a repository of such files, it stays one.
    file = Path(os.path.realpath(path))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(file.parent):
            _check_writable(path)
            _replace(file, _changed(_read(path), edit))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); check its folder and permissions") from error


def _read(path: Path) -> TomlFile:
    try:
        read = TomlFile.read(path)
    except FileNotFoundError:
        return TomlFile(path, "")
    contexts.checked(read)
    return read


def _check_writable(path: Path) -> None:
    # Its folder decides whether it can be replaced, but its owner may have protected it.
    if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
        raise ConfigError(f"{path}: is read-only; to change it: chmod u+w {shlex.quote(str(path))}")


def _changed(file: TomlFile, edit: Callable[[MutableMapping[str, Any]], None]) -> str:
    plain = tomllib.loads(file.text)
    edit(plain)
    try:
        document = tomlkit.parse(file.text)
        edit(document)
        text = document.as_string()
        is_right = tomllib.loads(text) == plain
    except (TOMLKitError, tomllib.TOMLDecodeError):
        is_right = False
    if not is_right:
        # Rare layouts, such as tables that are continued later.
        raise ConfigError(f"{file.path}: cannot be changed in its present layout; change it with an editor")
    contexts.checked(TomlFile(file.path, text))
    return text


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        # This unlocks it, too.
        os.close(opened)


def _replace(file: Path, text: str) -> None:
    # With mode 0600.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as written:
            written.write(text)
            written.flush()
            os.fsync(descriptor)
        Path(name).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
