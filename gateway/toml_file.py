"""Read a file of settings in TOML, and name the line of each mistake."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_BYTES = 1 << 20

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class TomlFile:
    """The contents of a file.

    Attributes:
        path: The file.
        text: Its text.
        values: Its values.
    """

    def __init__(self, path: Path, text: str) -> None:
        """Parse a text. Raises `ConfigError`: it is no TOML."""
        self.path = path
        self.text = text
        try:
            self.values: Mapping[str, Any] = _parsed(path, text)
        except tomllib.TOMLDecodeError as error:
            place = _PLACE.search(str(error))
            line = (place and place[1]) or text.count("\n") + 1
            problem = _PLACE.sub("", str(error))
            # Of the text, these words quote one character at most.
            raise ConfigError(
                f'{path}:{line}: {problem[:1].lower()}{problem[1:]}; correct the TOML there, such as key = "text"'
            ) from None

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read a file.

        Raises:
            FileNotFoundError: There is no such file.
            ConfigError: It cannot be read, or is no TOML.

        """
        try:
            with path.open("rb") as opened:
                contents = opened.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        if len(contents) > MAX_BYTES:
            raise ConfigError(f"{path}: has more than {MAX_BYTES:,} bytes; check that it is the right file")
        try:
            return cls(path, contents.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            line = contents.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: is not UTF-8; save the file in that encoding") from None

    def place(self, *keys: str) -> str:
        """Return the file with the line of a value, as FILE:LINE."""
        line = next(self._lines(keys), None)
        return f"{self.path}:{line}" if line else str(self.path)

    def _lines(self, keys: tuple[str, ...]) -> Iterator[int]:
        """Yield the line at which a value appears if the text ends there, and then lines that look like it."""
        lines = self.text.splitlines(keepends=True)
        looks = [number for number, line in enumerate(lines, 1) if keys[-1] in line]
        for number in looks:
            try:
                found: Any = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                # Within a value of several lines.
                continue
            if _has(found, keys):
                yield number
        yield from looks


def _parsed(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; check that it is the right file") from None
    except ValueError:
        # Python reads integers of at most 4,300 digits.
        raise ConfigError(f"{path}: has a number with too many digits; check that it is the right file") from None


def _has(values: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True
