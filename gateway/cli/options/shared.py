"""The options and arguments that several commands share, each declared once.

A command takes a group of options as one object of a class below. `expanded` replaces it by its fields for Typer, and
gives each a variable, such as JOBGATEWAY_TOKEN_FILE for `--token-file`.
"""

import copy
import functools
import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import typer
from typer._click.exceptions import UsageError

from gateway.cli.options import contexts, variables
from gateway.cli.options.contexts import Strength
from gateway.cli.output import terminal
from gateway.errors import ConfigError

DEFAULT_TARGET = "127.0.0.1:50051"
DEMO_TOKEN = "demo-token"  # noqa: S105 - public, accepted only by the simulator
LONGEST_DEADLINE = 366 * 86_400
"""In seconds."""
STANDARD_STREAM = Path("-")

MAX_INT64 = 2**63 - 1
_QUICK_SECONDS = 60.0

# By the names of Click's sources.
_STRENGTHS = {"COMMANDLINE": Strength.OPTION, "ENVIRONMENT": Strength.VARIABLE, "DEFAULT": Strength.DEFAULT}

_job = partial(typer.Option, rich_help_panel="Job", show_default=False)
_input = partial(typer.Option, rich_help_panel="Input, in one way", show_default=False)
_call = partial(typer.Option, rich_help_panel="Call")
_output = partial(typer.Option, "--output", "-o", rich_help_panel="Output")

Uid = Annotated[int, typer.Argument(min=1, max=MAX_INT64, metavar="UID", help="The job.", show_default=False)]

Uids = Annotated[
    list[int],
    typer.Argument(min=1, max=MAX_INT64, metavar="UID", help="The job, or several.", show_default=False),
]


class Output(StrEnum):
    """The content of standard output. Everything else goes to standard error."""

    TEXT = "text"
    JSON = "json"
    NAME = "name"


def _output_of(word: str) -> Output:
    try:
        return Output(word)
    except ValueError:
        # It was the option for the file of the result.
        is_stdout = word == "-"
        fix = "leave it out, as it is the result by default" if is_stdout else f"--save {shlex.quote(word)}"
        raise typer.BadParameter(
            f"{word} is not text, json or name; to {'print' if is_stdout else 'write'} the result: {fix}"
        ) from None


OutputOption = Annotated[
    Output,
    _output(
        metavar="text|json|name",
        parser=_output_of,
        autocompletion=lambda: [each.value for each in Output],
        help="What standard output gets. text: the result, byte for byte in a pipe. json: an object per line, with the "
        "upstream's JSON as `result`, and failures as `error`. name: the uid of the job.",
    ),
]

Deadline = Annotated[
    float | None,
    _call(
        min=0.1,
        max=LONGEST_DEADLINE,
        metavar="SECONDS",
        help="The time limit of the command. If it passes, the exit code is 124, or 9 if a job was sent and may run.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options: each field with an `Annotated` type is one option."""

    @classmethod
    def of(cls, values: Mapping[str, Any], _strengths: Mapping[str, Strength]) -> Self:
        """Return the group with its values.

        Args:
            values: The value of each option.
            _strengths: The source of each.

        """
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class JobOptions(Options):
    """The job to send."""

    workspace: Annotated[str, _job(metavar="ID", help="The workspace.")]
    entity: Annotated[int, _job(min=1, max=MAX_INT64, metavar="ID", help="The entity in that workspace.")]
    method: Annotated[str | None, _job(metavar="NAME", help="The method of the app.")] = None
    method_type: Annotated[str | None, _job(metavar="TYPE", help="The type of the method.")] = None
    editor_session: Annotated[
        str | None, _job(metavar="UUID", help="The editor session, which public endpoints require.")
    ] = None
    events: Annotated[
        list[str] | None, _job("--event", metavar="EVENT", help="An event for the job. May be repeated.")
    ] = None
    timeout: Annotated[int | None, _job(min=1, max=86_400, metavar="SECONDS", help="The time limit of the job.")] = None
    poll_result: Annotated[
        bool | None, _job(help="Let the upstream wait a while for the end of the job before it responds.")
    ] = None
    request_id: Annotated[
        str | None,
        _job(
            metavar="TEXT",
            help="An id, such as a UUID, that makes it safe to repeat the command for 25 hours: it creates at most one "
            "job, unless the gateway has lost the id. By default, a restart loses it (docs/operations/request-ids.md).",
        ),
    ] = None
    param: Annotated[
        list[str] | None,
        _input(metavar="KEY=VALUE", help="A member of the input. May be repeated. VALUE is JSON, or otherwise a text."),
    ] = None
    params: Annotated[str | None, _input(metavar="JSON", help="The input as JSON.")] = None
    params_file: Annotated[
        Path | None, _input(metavar="FILE", help="A file with the input as JSON; - is standard input.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions(Options):
    """The gateway to call, with its credentials.

    Attributes:
        chosen: The context that applies, or None.
        sources: The source of each option, by its name.
        takes_token: True if the variable JOBGATEWAY_TOKEN applies.
    """

    context: Annotated[
        str | None,
        _call(
            metavar="NAME",
            help="Use this context of the config file, instead of the current one.",
            autocompletion=contexts.names,
            show_default=False,
        ),
    ] = None
    target: Annotated[str, _call(metavar="HOST:PORT", help="The address of the gateway.")] = DEFAULT_TARGET
    token_file: Annotated[
        Path | None,
        _call(
            metavar="FILE",
            help="Read the token from this file instead of the variable JOBGATEWAY_TOKEN.",
            show_default=False,
        ),
    ] = None
    tls: Annotated[
        bool, _call(help="Use TLS. Implied by --ca-file, --cert-file and --key-file.", show_default=False)
    ] = False
    ca_file: Annotated[
        Path | None,
        _call(
            metavar="FILE",
            help="Trust the authorities in this file (PEM) instead of the public ones.",
            show_default=False,
        ),
    ] = None
    cert_file: Annotated[
        Path | None,
        _call(
            metavar="FILE",
            help="Present this certificate (PEM). If the gateway has its own token, you need no token.",
            show_default=False,
        ),
    ] = None
    key_file: Annotated[
        Path | None, _call(metavar="FILE", help="The private key of the certificate (PEM).", show_default=False)
    ] = None
    chosen: str | None = field(default=None, compare=False)
    sources: Mapping[str, Strength] = field(default_factory=dict, compare=False)
    takes_token: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, values: Mapping[str, Any], strengths: Mapping[str, Strength]) -> Self:
        """Return the options, completed by a context.

        Raises:
            ConfigError: The config file has a mistake, or there is no such context.

        """
        _report_ignored_context(strengths)
        choice = contexts.choose(values["context"], strengths)
        taken, sources = dict(values), dict(strengths)

        def drop(key: str) -> None:
            taken[key], sources[key] = getattr(cls, key), Strength.DEFAULT

        for key in contexts.KEYS:
            if choice.replaces_variables and strengths[key] is Strength.VARIABLE:
                drop(key)
        for key, value in choice.values.items():
            taken[key] = Path(str(value)) if key in contexts.FILES else value
            sources[key] = Strength.CONTEXT
        for key in contexts.TLS_FILES:
            # With --no-tls, for example, those of the context.
            if not taken["tls"] and sources[key] < sources["tls"]:
                drop(key)
        return cls(**taken, chosen=choice.name, sources=sources, takes_token=choice.takes_token)

    @property
    def secured(self) -> bool:
        """True if the options ask for TLS."""
        return self.tls or any((self.ca_file, self.cert_file, self.key_file))


@dataclass(frozen=True, kw_only=True)
class CallOptions(ConnectionOptions):
    """The gateway to call, with its credentials and the time limit."""

    deadline: Deadline = None


@dataclass(frozen=True, kw_only=True)
class QuickCallOptions(CallOptions):
    """The options of a command with an immediate response."""

    deadline: Deadline = _QUICK_SECONDS


@dataclass(frozen=True, kw_only=True)
class LongCallOptions(CallOptions):
    """The options of a command that lasts until a job has ended."""

    cancel_on_interrupt: Annotated[
        bool,
        _call(
            "--cancel-on-interrupt", help="Cancel the job on Ctrl-C, SIGTERM or SIGHUP. Without it, the job continues."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class FormatOptions(Options):
    """The format of the output."""

    output: OutputOption = Output.TEXT


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """The format of a report, which is about no job and thus has no name."""

    output: Annotated[
        Literal["text", "json"],
        _output(metavar="text|json", help="What standard output gets: lines for people, or JSON, an object per line."),
    ] = "text"


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """The format of a list."""

    output: Annotated[
        Literal["text", "json", "name"],
        _output(
            metavar="text|json|name",
            help="What standard output gets: a table, an object in JSON per line, or the names.",
        ),
    ] = "text"


@dataclass(frozen=True, kw_only=True)
class OutputOptions(FormatOptions):
    """The format of the output, and the file for the result."""

    save: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Output",
            show_default=False,
            metavar="FILE",
            help="Write the result to this file instead: the JSON of the upstream, byte for byte.",
        ),
    ] = None

    @property
    def wants_result(self) -> bool:
        """True if the result goes anywhere."""
        return self.save is not None or self.output is not Output.NAME


def _report_ignored_context(strengths: Mapping[str, Strength]) -> None:
    if strengths["context"] is strengths["target"] is Strength.VARIABLE:
        context, target = map(variables.of_shared, ("context", "target"))
        terminal.note(f"{context} is not used, because {target} is set; unset one of them")


def target_option(target: str) -> str:
    """Return " --target" and `target` for a command that a person copies, or nothing if that is the default."""
    # A context of this user would replace the default.
    return "" if target == DEFAULT_TARGET and not contexts.may_apply() else f" --target {target}"


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with the fields of each group of options in the place of the group, as Typer needs it."""
    parameters = inspect.signature(command).parameters.values()
    groups = {each.name: each.annotation for each in parameters if _is_group(each.annotation)}
    options = {name: _options(group) for name, group in groups.items()}

    @functools.wraps(command)
    def run(typer_context: typer.Context, **given: Any) -> None:
        try:
            for name, group in groups.items():
                values = {each.name: given.pop(each.name) for each in options[name]}
                given[name] = group.of(values, {each: _strength(typer_context, each) for each in values})
        except ConfigError as error:
            raise UsageError(str(error)) from None
        command(**given)

    single = [
        inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in parameters
            for one in options.get(each.name, [each])
        ),
    ]
    # Typer reads these two; functions do not declare the first.
    run.__signature__ = inspect.Signature(single)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in single}
    return run


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _options(group: type[Options]) -> list[inspect.Parameter]:
    """Return the options of a group, each with its variable."""
    every = inspect.signature(group).parameters.values()
    return [_with_variable(each) for each in every if get_origin(each.annotation) is Annotated]


def _with_variable(option: inspect.Parameter) -> inspect.Parameter:
    of_type, info = get_args(option.annotation)
    info = copy.copy(info)
    # Typer takes the first name for a default until it has read the signature.
    names = [each for each in (info.default, *(info.param_decls or ())) if str(each).startswith("--")]
    info.envvar = variables.of_shared(names[0] if names else option.name)
    return option.replace(annotation=Annotated[of_type, info])


def _strength(context: typer.Context, name: str) -> Strength:
    source = context.get_parameter_source(name)
    return _STRENGTHS[source.name if source else "DEFAULT"]
