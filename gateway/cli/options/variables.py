"""The environment variable of each option.

Options that several commands share, those of a class in `options/shared.py`, have one for all: `--target` is
JOBGATEWAY_TARGET. Those of one command have its name too: `--timeout` of `wait` is JOBGATEWAY_WAIT_TIMEOUT. The
settings of `serve` have their own, which `gateway/config.py` reads.
"""

from collections.abc import Iterator
from typing import Any

from typer._click import Context

PREFIX = "JOBGATEWAY"
TOKEN = f"{PREFIX}_TOKEN"


def of_shared(option: str) -> str:
    """Return the variable of an option that several commands share, by its name with or without hyphens."""
    return f"{PREFIX}_{option.removeprefix('--').replace('-', '_').upper()}"


def of_options(context: Context) -> Iterator[tuple[str, str]]:
    """Yield the first name and the variable of each option of a command and of the commands in it."""
    command: Any = context.command
    for each in command.params:
        if each.param_type_name == "option" and (variable := of_option(each, context)):
            yield each.opts[0], variable
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, name)
        yield from of_options(Context(inner, info_name=name, parent=context))


def of_option(option: Any, context: Context) -> str | None:
    """Return the variable of an option, or None if it has none."""
    if option.envvar:
        return str(option.envvar)
    return f"{context.auto_envvar_prefix}_{option.name.upper()}" if option.allow_from_autoenv else None


def is_of_client(root: Context, variable: str) -> bool:
    """Return whether a variable belongs to an option of a command, or is the token."""
    return variable == TOKEN or variable in {each for _, each in of_options(root)}
