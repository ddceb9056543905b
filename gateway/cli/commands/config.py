"""`config`: the contexts of the user."""

import json
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.failures.problems import output_lost, usage_error
from gateway.cli.options import contexts
from gateway.cli.options.contexts import FILES, KEYS, Context, Contexts, Strength
from gateway.cli.options.files import exists
from gateway.cli.options.shared import ConnectionOptions, ListOptions, Output, ReportOptions, expanded
from gateway.cli.options.targets import TargetUnusable, check_target
from gateway.cli.options.variables import TOKEN
from gateway.cli.output import stdio, terminal
from gateway.cli.output.formatting import clean
from gateway.cli.parsing.command import Command, Commands
from gateway.errors import ConfigError

app = typer.Typer(
    name="config",
    cls=Commands,
    rich_markup_mode=None,
    help="Name gateways with their credentials as contexts, and select one. See docs/clients/contexts.md.",
    no_args_is_help=True,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:/-]{0,99}")
_SOURCES = {Strength.OPTION: "option", Strength.VARIABLE: "variable", Strength.CONTEXT: "context"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="The context.", autocompletion=contexts.names)]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The context, which may be new.")]
Key = Annotated[
    str | None,
    typer.Argument(
        metavar="OPTION",
        help="Remove only this option of it, such as ca-file.",
        autocompletion=lambda: [each.replace("_", "-") for each in KEYS],
        show_default=False,
    ),
]
Target = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The address of the gateway.")]
Tls = Annotated[
    bool | None, typer.Option("--tls/--no-tls", help="Use TLS. Implied by --ca-file, --cert-file and --key-file.")
]
CaFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Trust the authorities in this file (PEM).")]
CertFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Present this certificate (PEM).")]
KeyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The private key of the certificate (PEM).")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Read the token from this file. The config file never contains a token."),
]


@expanded
def list_contexts(shown: ListOptions) -> None:
    """List the contexts. An asterisk marks the current one."""
    output = shown.output
    with _reported(output):
        known = contexts.read()
        if not known.named:
            terminal.note("there is no context; create one, see jobgateway config set --help")
        for line in _list_lines(known, output):
            typer.echo(line)


app.command("list", cls=Command)(list_contexts)


def _list_lines(known: Contexts, output: str) -> Iterator[str]:
    width = max(map(len, map(clean, known.named)), default=0)
    for name, context in known.named.items():
        is_current = name == known.current
        if output == "json":
            yield json.dumps({"name": name, "current": is_current, **context})
        elif output == "name":
            yield clean(name)
        else:
            yield f"{'*' if is_current else ' '} {clean(name):{width}}  {clean(str(context['target']))}"


@expanded
def show(call: ConnectionOptions, shown: ReportOptions) -> None:
    """Show the gateway and the credentials that a command with the same options would use, and why."""
    output = shown.output
    with _reported(output):
        # It may have a password.
        _check_target(call.target)
        rows = list(_show_rows(call))
        if output == "json":
            typer.echo(json.dumps({key: {"value": value, "source": source} for key, value, source in rows}))
            return
        cells = [[clean(str(value).lower() if value is True else str(value)) for value in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show_rows(call: ConnectionOptions) -> Iterator[tuple[str, str | bool, str]]:
    if call.chosen is not None:
        yield "context", call.chosen, _SOURCES[call.sources["context"]] if call.context else "current"
    for key in KEYS:
        value = getattr(call, key)
        if value:
            yield key, _shown(key, value, call.sources), _SOURCES.get(call.sources[key], "default")
    if not call.token_file and call.takes_token and os.environ.get(TOKEN):
        # Never the token itself.
        yield "token", TOKEN, "variable"


def _shown(key: str, value: Any, sources: Mapping[str, Strength]) -> str | bool:
    if key == "tls":
        return bool(value)
    if key == "token_file" and sources[key] is not Strength.CONTEXT and not exists(value):
        # It may be the token itself.
        return "(no such file)"
    return str(value)


app.command(cls=Command)(show)


@app.command("set", cls=Command)
def set_context(
    name: NewName,
    target: Target = None,
    tls: Tls = None,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
    token_file: TokenFile = None,
) -> None:
    """Create a context, or change the given options of one."""
    files = {"token_file": token_file, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    with _reported():
        values: dict[str, Any] = {"target": target, "tls": tls, **{key: _stored(key, files[key]) for key in FILES}}
        values = {key: value for key, value in values.items() if value is not None}
        _check_new(name, values)

        def edit(document: MutableMapping[str, Any]) -> None:
            known = document.setdefault("contexts", {})
            if "target" not in values and name not in known:
                raise ConfigError(f"{name} is a new context, and needs --target HOST:PORT")
            known.setdefault(name, {}).update(values)

        _change(edit)
        if contexts.read().current != name:
            terminal.note(f"use it by default: jobgateway config use {name}")


@app.command(cls=Command)
def use(name: Name) -> None:
    """Make a context the current one, which commands use by default."""
    with _reported():

        def edit(document: MutableMapping[str, Any]) -> None:
            _existing(document, name)
            document["current"] = name

        _change(edit)
        terminal.note(f"commands now use {clean(name)} by default")


# So that an option can be named as it is set.
@app.command(cls=Command, context_settings={"ignore_unknown_options": True})
def unset(name: Name, option: Key = None) -> None:
    """Remove a context, or one option of it."""
    with _reported():
        key = option and option.removeprefix("--").replace("-", "_")
        was_current = False

        def edit(document: MutableMapping[str, Any]) -> None:
            nonlocal was_current
            context = _existing(document, name)
            if key:
                if key not in context:
                    raise ConfigError(f"{name} has no {option}; it has {', '.join(context)}")
                if key == "target":
                    raise ConfigError("a context needs a target; change it, see jobgateway config set --help")
                del document["contexts"][name][key]
                return
            del document["contexts"][name]
            if not document["contexts"]:
                del document["contexts"]
            was_current = document.get("current") == name
            if was_current:
                del document["current"]

        _change(edit)
        if was_current:
            terminal.note(f"{name} was the current context, and now there is none; see jobgateway config list")


@app.command("path", cls=Command)
def show_path() -> None:
    """Print the path of the config file, which may not exist."""
    with _reported():
        file = contexts.path()
        if file is None:
            raise ConfigError("there is no home directory for the config file; set XDG_CONFIG_HOME to a folder")
        typer.echo(str(file))


def _existing(document: Mapping[str, Any], name: str) -> Context:
    """Return a context of the file while it is changed, when no other process changes it."""
    return Contexts(None, document.get("contexts", {})).get(name)


def _change(edit: Any) -> None:
    # Imported here, because the editor of TOML is slow to import.
    from gateway.cli.options.context_file import change

    change(edit)


def _check_new(name: str, values: dict[str, Any]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"NAME: {name!r} must have 1 to 100 letters, digits or _ . @ : / -, and begin with a letter, a digit or _"
        )
    if not values:
        raise ConfigError(f"nothing to change; give an option, such as --target HOST:PORT, or see it: {_show(name)}")
    if "target" in values:
        _check_target(values["target"])


def _show(name: str) -> str:
    return f"jobgateway config show --context {name}"


def _check_target(target: str) -> None:
    try:
        check_target(target)
    except TargetUnusable as error:
        raise ConfigError(str(error)) from error


def _stored(key: str, file: Path | None) -> str | None:
    """Return the path of a file as the config file has it."""
    if file is None:
        return None
    # If there is no such user, it begins with a tilde.
    with suppress(RuntimeError):
        file = file.expanduser()
    if not exists(file) or not file.is_file():
        # The value may be the token itself, so it is not repeated.
        raise ConfigError(f"--{key.replace('_', '-')}: there is no such file; give the path of a file that exists")
    return str(Path.cwd() / file)


@contextmanager
def _reported(output: str = Output.TEXT) -> Iterator[None]:
    """Leave with an exit code if something fails within. `output` is the format of standard output."""
    try:
        yield
        stdio.check()
    except ConfigError as error:
        usage_error(str(error), Output(output))
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
