"""Files that the URL of a store names."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigError


def check_file(variable: str, option: str, path: str) -> None:
    """Make sure that a file can be opened.

    Raises:
        ConfigError: It cannot.
    """
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"{variable}: {option}={path} cannot be read: {error.strerror}") from None
