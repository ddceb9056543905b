"""The candidates for the last word of a command line.

Click's own search converts the values on the line, which imports pydantic, and takes as long as the rest.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer
from typer._click import Context

FILES = ":files"
"""The only candidate if the shell is to complete a path."""

_ANY_NUMBER = -1
"""Of the arguments of a command."""


def found(root: Context, line: str) -> Iterator[tuple[str, str]]:
    """Return the candidates with their meanings. `root` is the context of the group of all commands."""
    *words, last = _words(line)
    place = _Place(root)
    for word in words[1:]:
        if not place.passed(word):
            return iter(())
    return place.candidates(last)


class _Place:
    """The place in a command line after some of its words."""

    def __init__(self, root: Context) -> None:
        self._context: Any = root
        self._command: Any = root.command
        self._given: set[str] = set()
        self._arguments = 0
        self._waiting: Any = None  # the option whose value is the next word
        self._has_options = True  # until --

    def passed(self, word: str) -> bool:
        """Go past a word. Return False if there is no such command."""
        commands = getattr(self._command, "commands", None)
        if self._waiting:
            self._waiting = None
        elif word == "--":
            self._has_options = False
        elif self._is_option(word):
            name, equals, _ = word.partition("=")
            self._given.add(name)
            option = self._option(name)
            self._waiting = None if equals or option is None or option.is_flag else option
        elif commands is None:
            self._arguments += 1
        elif word in commands:
            self._command = self._command.get_command(self._context, word)
            self._context = typer.Context(self._command, info_name=word, parent=self._context, resilient_parsing=True)
        else:
            return False
        return True

    def candidates(self, last: str) -> Iterator[tuple[str, str]]:
        """Return the candidates for a word at this place."""
        if self._waiting:
            return self._values(self._waiting, last)
        if self._is_option(last):
            return self._values_after_equals(last) if "=" in last else self._options(last)
        if hasattr(self._command, "commands"):
            return self._commands(last)
        arguments = self._parameters("argument")
        if arguments and (self._arguments < len(arguments) or arguments[-1].nargs == _ANY_NUMBER):
            return self._values(arguments[min(self._arguments, len(arguments) - 1)], last)
        return iter(())

    def _is_option(self, word: str) -> bool:
        return self._has_options and word.startswith("-")

    def _parameters(self, kind: str) -> list[Any]:
        return [each for each in self._command.get_params(self._context) if each.param_type_name == kind]

    def _option(self, name: str) -> Any:
        """Return the option with this name, or None."""
        return next((each for each in self._parameters("option") if name in _names(each)), None)

    def _commands(self, start: str) -> Iterator[tuple[str, str]]:
        for name in self._command.list_commands(self._context):
            each = self._command.get_command(self._context, name)
            if name.startswith(start) and not each.hidden:
                yield name, _summary(each.short_help or each.help)

    def _options(self, start: str) -> Iterator[tuple[str, str]]:
        for each in self._parameters("option"):
            if each.hidden or (not each.multiple and self._given & set(_names(each))):
                continue
            for name in _names(each):
                # Letters are for people who know them.
                if name.startswith(start) and (name.startswith("--") or name == start):
                    yield name, _summary(each.help)

    def _values_after_equals(self, word: str) -> Iterator[tuple[str, str]]:
        name, _, start = word.partition("=")
        for value, meaning in self._values(self._option(name), start):
            yield (value if value == FILES else f"{name}={value}"), meaning

    def _values(self, parameter: Any, start: str) -> Iterator[tuple[str, str]]:
        if parameter is None:
            return
        if parameter.metavar == "FILE":
            yield FILES, ""
        for each in parameter.shell_complete(self._context, start):
            yield each.value, _summary(each.help)


def _names(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def _words(line: str) -> list[str]:
    """Return the words of an incomplete line; the last is the one to complete."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words += lexer
    except ValueError:
        # A quote that is still open.
        return [*words, lexer.token]
    return [*words, ""] if not words or line[-1:].isspace() else words


def _summary(text: str | None) -> str:
    """Return the first sentence of a help text."""
    return re.split(r"\.\s", " ".join((text or "").split()), maxsplit=1)[0].rstrip(".")
