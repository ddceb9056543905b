"""Contexts: named gateways with their credentials, in a file of the user."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway import hints
from gateway.cli.options.targets import TargetUnusable, check_target
from gateway.cli.options.variables import TOKEN, of_shared
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.toml_file import TomlFile

TLS_FILES = ("ca_file", "cert_file", "key_file")
FILES = ("token_file", *TLS_FILES)
KEYS = ("target", "tls", *FILES)
"""The keys of a context, which are options of the commands that call a gateway."""

Context: TypeAlias = "Mapping[str, str | bool]"
"""The values of a context by their keys. Paths are absolute."""

# Names that a person may give to a token. A token in this file would be in backups and on screens.
_SECRETS = frozenset({"token", "password", "secret", "credential", "api_key", "bearer"})


class Strength(IntEnum):
    """The source of a value. A stronger one wins, except that a context that an option names replaces variables."""

    DEFAULT = 0
    CONTEXT = 1
    VARIABLE = 2
    OPTION = 3


@dataclass(frozen=True)
class Contexts:
    """The contexts of the file.

    Attributes:
        path: The file, which may not exist. None if this user has no home directory.
        named: Each context by its name.
        current: The context that commands use by default, or None.
    """

    path: Path | None
    named: Mapping[str, Context] = field(default_factory=dict)
    current: str | None = None

    def get(self, name: str) -> Context:
        """Return a context. Raises `ConfigError` if there is none with this name."""
        if name in self.named:
            return self.named[name]
        raise ConfigError(f"there is no context {name}; {_meant(name, self.named)}")


def path() -> Path | None:
    """Return the file of the contexts, which may not exist, or None if this user has no home directory."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification says to ignore relative paths.
    if not Path(base).is_absolute():
        try:
            base = str(Path.home() / ".config")
        except RuntimeError:
            return None
    return Path(base, "jobgateway", "config.toml")


def read() -> Contexts:
    """Return the contexts.

    Raises:
        ConfigError: The file cannot be read, or has a mistake.

    """
    file = path()
    # Most users have none, and need not wait for the import of the parser.
    if file is None or not os.path.lexists(file):
        return Contexts(file)
    from gateway.toml_file import TomlFile

    try:
        return checked(TomlFile.read(file))
    except FileNotFoundError:
        raise ConfigError(f"{file}: is a link to a file that does not exist; remove it, or create that file") from None


def may_apply() -> bool:
    """Return whether a context may apply to a command without options."""
    try:
        return bool(os.environ.get(of_shared("context")) or read().current)
    except ConfigError:
        return True


def names() -> list[str]:
    """Return the names of all contexts, or none if the file has a mistake."""
    try:
        return list(read().named)
    except ConfigError:
        return []


def checked(file: TomlFile) -> Contexts:
    """Return the contexts of a file that was read. Raises `ConfigError` with its first mistake."""
    for key, value in file.values.items():
        _check_secret(file, key)
        if key not in ("current", "contexts"):
            fix = "did you mean contexts?" if key.startswith("context") else f"write it as [contexts.{key}]"
            raise ConfigError(f"{file.place(key)}: {key}: is not current or contexts; {fix}")
        if not isinstance(value, str if key == "current" else dict):
            demand = 'a name; write current = "NAME"' if key == "current" else "tables; write [contexts.NAME]"
            raise ConfigError(f"{file.place(key)}: {key}: must be {demand}")
    tables = file.values.get("contexts", {})
    named = {name: _context(file, name, table) for name, table in tables.items()}
    current = file.values.get("current")
    if current is not None and current not in named:
        raise ConfigError(f"{file.place('current')}: current: there is no context {current}; {_meant(current, named)}")
    return Contexts(file.path, named, current)


def _context(file: TomlFile, name: str, table: Any) -> Context:
    if not isinstance(table, dict):
        raise ConfigError(f"{file.place('contexts', name)}: {name}: must be a table; write [contexts.{name}]")
    context = {key: _value(file, name, key, value) for key, value in table.items()}
    if "target" not in context:
        raise ConfigError(f'{file.place("contexts", name)}: {name}: has no target; add target = "HOST:PORT"')
    return context


def _value(file: TomlFile, name: str, key: str, value: Any) -> str | bool:
    _check_secret(file, "contexts", name, key)
    if mistake := _mistake(key, value):
        # Finding the line is slow, so it is looked for only here.
        raise ConfigError(f"{file.place('contexts', name, key)}: {name}.{key}: {mistake}")
    return _absolute(file.path, value) if key in FILES else value


def _mistake(key: str, value: Any) -> str | None:
    """Return the problem of a value and its fix, or None if it is right."""
    if key not in KEYS:
        meant = hints.nearest(key.replace("-", "_"), KEYS)
        fix = f"did you mean {meant}?" if meant else f"the options are {', '.join(KEYS)}"
        return f"there is no such option; {fix}"
    if key == "tls":
        return None if isinstance(value, bool) else "must be true or false; leave out quotes"
    if isinstance(value, str) and value and "\0" not in value:
        return _target_mistake(value) if key == "target" else None
    return f'must be a text; write {key} = "{_example(key)}"'


def _target_mistake(target: str) -> str | None:
    try:
        check_target(target)
    except TargetUnusable as error:
        return str(error).removeprefix("--target ")
    return None


def _check_secret(file: TomlFile, *keys: str) -> None:
    if keys[-1].lower().replace("-", "_") in _SECRETS:
        raise ConfigError(
            f"{file.place(*keys)}: {keys[-1]}: this file must not contain a secret; write the token to a file that "
            'only you can read, and put its path here: token_file = "PATH"'
        )


def _absolute(file: Path, value: str) -> str:
    """Return a path that is relative to the home directory or to the file of the contexts as an absolute one."""
    try:
        return str(file.parent / Path(value).expanduser())
    except RuntimeError:
        return str(file.parent / value)


def _example(key: str) -> str:
    return "gateway.example.com:443" if key == "target" else "~/.config/jobgateway/token"


def _meant(name: str, named: Mapping[str, object]) -> str:
    meant = hints.nearest(name, named)
    if meant:
        return f"did you mean {meant}?"
    return f"there are {', '.join(named)}" if named else "create it, see jobgateway config set --help"


@dataclass(frozen=True)
class Choice:
    """The context that applies to a command.

    Attributes:
        values: The values of the context that apply.
        name: The name of the context, or None if none applies.
        replaces_variables: True if the variables of the connection do not apply.
        takes_token: True if the variable JOBGATEWAY_TOKEN applies.
    """

    values: Context = field(default_factory=dict)
    name: str | None = None
    replaces_variables: bool = False
    takes_token: bool = True


def choose(named: str | None, strengths: Mapping[str, Strength]) -> Choice:
    """Return what the context adds to the options of a command.

    The credentials of one gateway must not go to another. A context that an option names therefore replaces all
    variables of the connection. Otherwise, a target that is given replaces the context as a whole.

    Args:
        named: The context that an option or a variable names, or None for the current one.
        strengths: The source of each option by its key, and that of `context`.

    Raises:
        ConfigError: The file has a mistake, or there is no such context.

    """
    contexts = read()
    is_option = bool(named) and strengths["context"] is Strength.OPTION
    name = named or contexts.current
    if name is None:
        return Choice()
    context = contexts.get(name)
    if is_option:
        values = {key: value for key, value in context.items() if strengths[key] < Strength.OPTION}
        return Choice(
            values, name, replaces_variables=True, takes_token=not context.keys() & {"token_file", "cert_file"}
        )
    if strengths["target"]:
        return Choice()
    values = {key: value for key, value in context.items() if not strengths[key]}
    if os.environ.get(TOKEN):
        values.pop("token_file", None)
    return Choice(values, name)
