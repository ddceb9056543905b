"""The group of all commands, and a command: how they show their help, and report wrong usage in one line."""

import os
import re
import sys
from typing import Any

from typer._click.core import Command as _ClickCommand
from typer._click.exceptions import ClickException, NoArgsIsHelpError, NoSuchOption
from typer.core import TyperCommand, TyperGroup

from gateway.cli.options import variables
from gateway.cli.output import terminal
from gateway.cli.parsing.examples import write_examples
from gateway.cli.parsing.values import convert_quickly

NAME = "jobgateway"
_FORMER_OPTIONS = {"--json": "write --output json, or -o json"}
_OUTPUT = ("--output", "-o")
_LAST_PANEL = "Options"
# Only the first sentence of a command's help is in the list of commands.
_LONGEST_SENTENCE = 200


class _Help(_ClickCommand):
    """The part of commands and groups that has `--help`, which ends with examples."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help`."""
        option = super().get_help_option(ctx)
        if option is not None:
            # Typer imports pydantic to convert a value that is not a bool, even None.
            option.default = False
            option.allow_from_autoenv = False
        return option

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        write_examples(ctx, formatter)


class Command(_Help, TyperCommand):
    """A command whose help has a section for each group of options, and which converts values quickly."""

    def __init__(self, name: str | None, **extra: Any) -> None:
        super().__init__(name, **extra)
        convert_quickly(self.params)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        _write_options(self.get_params(ctx), ctx, formatter)


class Commands(_Help, TyperGroup):
    """A group whose errors of usage are one line: the mistake, and the fix."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group of commands, and one for the options."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if command.hidden:
                continue
            panel = str(getattr(command, "rich_help_panel", None) or "Commands")
            panels.setdefault(panel, []).append((name, command.get_short_help_str(_LONGEST_SENTENCE)))
        _write_panels(panels, formatter)
        _write_options(self.get_params(ctx), ctx, formatter)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command in the arguments, and leave the process with its exit code."""
        try:
            sys.exit(super().main(*args, **extra | {"standalone_mode": False}))
        except NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except ClickException as error:
            line = _line(error)
            terminal.problem(line)
            if _wants_json(error, list(args[0] if args else extra.get("args") or sys.argv[1:])):
                # Imported here, because it is slow to import.
                from gateway.cli.output import json_output

                json_output.show_failure("USAGE", line)
            sys.exit(error.exit_code)


def _write_options(params: list[Any], ctx: Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        if param.param_type_name == "argument":
            panels.setdefault("Arguments", []).append((param.metavar, param.help))
        elif row := param.get_help_record(ctx):
            panels.setdefault(getattr(param, "rich_help_panel", None) or _LAST_PANEL, []).append(row)
    if last := panels.pop(_LAST_PANEL, None):
        panels[_LAST_PANEL] = last
    _write_panels(panels, formatter)


def _write_panels(panels: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for panel, rows in panels.items():
        with formatter.section(panel):
            formatter.write_dl(rows)


def _wants_json(error: ClickException, words: list[str]) -> bool:
    """Return whether the command was to print JSON. Its options may not have been read when it failed."""
    context = getattr(error, "ctx", None)
    if context is None:
        return False
    option = next((each for each in context.command.params if each.name == "output"), None)
    if option is None:
        # The mistake may be the name of the command.
        return hasattr(context.command, "commands") and _value(words, _OUTPUT, None) == "json"
    return _value(words, _OUTPUT, os.environ.get(variables.of_option(option, context) or "")) == "json"


def _value(words: list[str], names: tuple[str, ...], value: str | None) -> str | None:
    """Return the last value of an option in the words of a command line, in any of the forms that Click reads."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--":
            break
        for name in names:
            if word == name:
                value = following
            elif word.startswith(f"{name}=" if name.startswith("--") else name):
                value = word[len(name) :].removeprefix("=")
    return value


def _line(error: ClickException) -> str:
    context = getattr(error, "ctx", None)
    problem = " ".join(error.format_message().split()).rstrip(".")
    problem = re.sub(r"\.? Did you mean ", "; did you mean ", problem)
    if "; " in problem:
        return problem
    former = _FORMER_OPTIONS.get(error.option_name) if isinstance(error, NoSuchOption) else None
    return f"{problem}; {former or f'see {context.command_path if context else NAME} --help'}"
