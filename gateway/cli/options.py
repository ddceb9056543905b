"""The options and arguments that several commands share, each declared once.

A command takes a group of them as one object of a class below; `expanded` shows Typer the fields in its place.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_TARGET = "127.0.0.1:50051"
LONGEST_DEADLINE = 366 * 86_400
"""In seconds."""
STANDARD_STREAM = Path("-")

_LARGEST_INT64 = 2**63 - 1
_QUICK_SECONDS = 60.0

_job = partial(typer.Option, rich_help_panel="Job", show_default=False)
_input = partial(typer.Option, rich_help_panel="Input, in one way", show_default=False)
_call = partial(typer.Option, rich_help_panel="Call")
_output = partial(typer.Option, rich_help_panel="Output", show_default=False)

Uid = Annotated[int, typer.Argument(min=1, max=_LARGEST_INT64, metavar="UID", help="The job.", show_default=False)]

Json = Annotated[bool, _output("--json", help="Print JSON, one object per line and nothing else.")]

Deadline = Annotated[
    float | None,
    _call(
        min=0.1,
        max=LONGEST_DEADLINE,
        metavar="SECONDS",
        help="The longest time that the command may take.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options: each field is one, by its name and its annotation."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(Options):
    """What job to send."""

    workspace: Annotated[str, _job(metavar="ID", help="The workspace.")]
    entity: Annotated[int, _job(min=1, metavar="ID", help="The entity in that workspace.")]
    method: Annotated[str | None, _job(metavar="NAME", help="The method of the app.")] = None
    method_type: Annotated[str | None, _job(metavar="TYPE", help="The method's type.")] = None
    editor_session: Annotated[
        str | None, _job(metavar="UUID", help="The editor session, which public endpoints require.")
    ] = None
    events: Annotated[list[str] | None, _job("--event", metavar="EVENT", help="An event for the job; repeatable.")] = (
        None
    )
    timeout: Annotated[
        int | None, _job(min=1, max=86_400, metavar="SECONDS", help="The longest time that the job may run.")
    ] = None
    poll_result: Annotated[
        bool | None, _job(help="Whether the upstream waits a while for the end before it answers.")
    ] = None
    request_id: Annotated[
        str | None,
        _job(
            metavar="TEXT",
            help="At most one job runs for one id, so that the command can be repeated; take a UUID.",
        ),
    ] = None
    param: Annotated[
        list[str] | None,
        _input(metavar="KEY=VALUE", help="A member of the input; repeatable. VALUE is JSON, or else a text."),
    ] = None
    params: Annotated[str | None, _input(metavar="JSON", help="The input.")] = None
    params_file: Annotated[
        Path | None, _input(metavar="FILE", help="The file with the input; - is standard input.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CallOptions(Options):
    """Which gateway to call, how and under which token, and for how long."""

    target: Annotated[str, _call(envvar="JOBGATEWAY_TARGET", metavar="HOST:PORT", help="The gateway.")] = DEFAULT_TARGET
    token_file: Annotated[
        Path | None,
        _call(
            metavar="FILE",
            help="Take the token from this file instead of the variable JOBGATEWAY_TOKEN.",
            show_default=False,
        ),
    ] = None
    tls: Annotated[bool, _call("--tls", help="Use TLS. So do the three options below.")] = False
    ca_file: Annotated[
        Path | None,
        _call(metavar="FILE", help="Trust these authorities (PEM) instead of the usual ones.", show_default=False),
    ] = None
    cert_file: Annotated[
        Path | None,
        _call(
            metavar="FILE",
            help="Show this certificate (PEM). With it a token may be left out, where the gateway has one of its own.",
            show_default=False,
        ),
    ] = None
    key_file: Annotated[
        Path | None, _call(metavar="FILE", help="The certificate's private key (PEM).", show_default=False)
    ] = None
    deadline: Deadline = None


@dataclass(frozen=True, kw_only=True)
class QuickCallOptions(CallOptions):
    """Those of a command that is answered at once."""

    deadline: Deadline = _QUICK_SECONDS


@dataclass(frozen=True, kw_only=True)
class LongCallOptions(CallOptions):
    """Those of a command that lasts until a job has ended."""

    cancel_on_interrupt: Annotated[
        bool, _call("--cancel-on-interrupt", help="Cancel the job on Ctrl-C. Without it, the job goes on.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """What to print, and where the result goes."""

    as_json: Json = False
    output: Annotated[
        Path | None,
        _output(
            metavar="FILE",
            dir_okay=False,
            writable=True,
            allow_dash=True,
            help="Write the result to this file: the JSON as the upstream made it, byte for byte. "
            "- is standard output; all else then goes to standard error.",
        ),
    ] = None

    @property
    def result_only(self) -> bool:
        """Whether standard output is for the result alone."""
        return self.output == STANDARD_STREAM


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer reads it: in place of each parameter that is a group of options, its fields."""
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, type[Options]] = {
        each.name: each.annotation
        for each in parameters
        if isinstance(each.annotation, type) and issubclass(each.annotation, Options)
    }

    @functools.wraps(command)
    def run(**given: object) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    single = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in parameters
        for one in (inspect.signature(groups[each.name]).parameters.values() if each.name in groups else [each])
    ]
    # What `inspect.signature` and `get_type_hints` read; functions do not declare the former.
    run.__signature__ = inspect.Signature(single)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in single}
    return run
