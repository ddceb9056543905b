"""The group of all commands, which reports wrong usage in one line."""

import sys
from typing import Any

from typer._click.exceptions import ClickException, NoArgsIsHelpError, NoSuchOption
from typer.core import TyperGroup

from gateway.cli import display

NAME = "jobgateway"
_FORMER_OPTIONS = {"--json": "write --output json, or -o json"}


class Commands(TyperGroup):
    """A group whose errors of usage are one line: the mistake, and the fix."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command in the arguments, and leave the process with its exit code."""
        try:
            sys.exit(super().main(*args, **extra | {"standalone_mode": False}))
        except NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except ClickException as error:
            display.problem(_line(error))
            sys.exit(error.exit_code)


def _line(error: ClickException) -> str:
    context = getattr(error, "ctx", None)
    problem = " ".join(error.format_message().split()).rstrip(".")
    if "; " in problem:
        return problem
    former = _FORMER_OPTIONS.get(error.option_name) if isinstance(error, NoSuchOption) else None
    return f"{problem}; {former or f'see {context.command_path if context else NAME} --help'}"
