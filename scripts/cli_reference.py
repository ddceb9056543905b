"""The commands as pages: a page of docs/reference/, and a man page for each command."""

from __future__ import annotations

import itertools
import re
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gateway import __version__
from gateway.cli.app import app
from gateway.cli.exit_codes import EXPLAINED, MEANINGS, REMARK
from gateway.cli.options import variables
from gateway.cli.options.shared import MAX_INT64
from gateway.cli.parsing.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROGRAM = "jobgateway"


class Command(NamedTuple):
    """A command, or a group of commands.

    Attributes:
        name: Its words after `jobgateway`.
        panel: The heading that it is under in the help.
        context: Its context, with the command itself.
    """

    name: str
    panel: str
    context: typer.Context

    @property
    def click(self) -> Any:
        """The command itself."""
        return self.context.command

    @property
    def synopsis(self) -> list[str]:
        """The words of a call, with placeholders."""
        return [PROGRAM, *self.name.split(), *self.click.collect_usage_pieces(self.context)]


def _root() -> typer.Context:
    group: Any = typer.main.get_command(app)
    return typer.Context(group, info_name=PROGRAM, **group.context_settings)


def commands() -> list[Command]:
    """Return all visible commands by their panels, each group before its own commands."""
    found = list(_below(_root()))
    panels = list(dict.fromkeys(each.panel for each in found))
    return sorted(found, key=lambda each: panels.index(each.panel))


def _below(parent: typer.Context, panel: str = "", before: str = "") -> Iterator[Command]:
    group: Any = parent.command
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if not command.hidden:
            found = Command(
                f"{before}{name}",
                panel or command.rich_help_panel,
                typer.Context(command, info_name=name, parent=parent),
            )
            yield found
            if hasattr(command, "commands"):
                yield from _below(found.context, found.panel, f"{found.name} ")


def _description() -> str:
    """Return the help of the program without its exit codes."""
    return str(_root().command.help).removesuffix(EXPLAINED).strip()


def _names(parameter: Any) -> list[str]:
    # Click has the names of `--help` in a set, so their order differs from run to run.
    return sorted([*parameter.opts, *parameter.secondary_opts], key=lambda each: not each.startswith("--"))


def _value(parameter: Any) -> str:
    """Return the placeholder for the value of an option, or its values."""
    if getattr(parameter, "is_flag", False):
        return ""
    choices = parameter.type_descriptor.choices
    return parameter.metavar or "|".join(getattr(each, "value", each) for each in choices or ())


def _bounds(parameter: Any) -> str:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is None or getattr(parameter, "is_flag", False):
        return ""
    return f"{low} to {high}" if high is not None and high < MAX_INT64 else f"at least {low}"


def _remarks(parameter: Any, context: typer.Context) -> list[str]:
    """Return the help of an option, its variable and its default."""
    remarks = [parameter.help or ""]
    if parameter.param_type_name == "option" and (variable := variables.of_option(parameter, context)):
        remarks.append(f"Variable `{variable}`.")
    if getattr(parameter, "show_default", False) and parameter.default not in (None, False):
        remarks.append(f"Default `{parameter.default}`.")
    if parameter.required:
        remarks.append("Required.")
    return remarks


def _panels(parameters: Iterable[Any]) -> dict[str, list[Any]]:
    panels: dict[str, list[Any]] = {}
    for each in parameters:
        default = "Arguments" if each.param_type_name == "argument" else "Options"
        panels.setdefault(getattr(each, "rich_help_panel", None) or default, []).append(each)
    return panels


def page() -> str:
    """Return the commands in Markdown."""
    lines = ["# Command line", "", _description(), "", "| exit code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    lines += ["", REMARK, "", *_sh("")]
    for panel, below in itertools.groupby(commands(), lambda each: each.panel):
        lines += ["", f"## {panel}"]
        for each in below:
            lines += [
                "",
                f"{'#' * (2 + len(each.name.split()))} {each.name}",
                "",
                each.click.help.strip(),
                "",
                f"    {' '.join(each.synopsis)}",
            ]
            for heading, parameters in _panels(each.click.params).items():
                lines += ["", f"| {heading} | value | meaning |", "| --- | --- | --- |"]
                lines += [_row(parameter, each.context) for parameter in parameters]
            lines += ["", *_sh(each.name)]
    return "\n".join(lines) + "\n"


def _row(parameter: Any, context: typer.Context) -> str:
    """Return a row of the table of options."""
    names = ", ".join(f"`{each}`" for each in _names(parameter))
    value = _value(parameter).replace("|", ", ")
    shown = ", ".join(filter(None, (f"`{value}`" if value else "", _bounds(parameter))))
    return f"| {names} | {shown} | {' '.join(_remarks(parameter, context))} |"


def _sh(name: str) -> list[str]:
    return ["```sh", *EXAMPLES[name].strip().splitlines(), "```"] if name in EXAMPLES else []


def manual() -> dict[str, str]:
    """Return the man pages by the names of their files."""
    pages = {PROGRAM: _man_of_program()} | {_man_name(each.name): _man_of_command(each) for each in commands()}
    return {f"{name}.1": "\n".join(lines) + "\n" for name, lines in pages.items()}


def _man_of_program() -> list[str]:
    text = _description()
    lines = _man_head(PROGRAM, text)
    lines += [rf"\fB{PROGRAM}\fR \fICOMMAND\fR [\fIOPTIONS\fR]", ".SH DESCRIPTION", _prose(text), ".SH COMMANDS"]
    for panel, below in itertools.groupby(commands(), lambda each: each.panel):
        lines.append(f".SS {panel}")
        for each in below:
            lines += [".TP", rf"\fB{_code(_man_name(each.name))}\fR(1)", _prose(_summary(each))]
    lines.append(".SH OPTIONS")
    program: Any = _root().command
    for option in program.get_params(_root()):
        lines += [".TP", _man_option(option), _prose(option.help or "")]
    lines.append(".SH EXIT STATUS")
    for code, meaning in MEANINGS.items():
        lines += [".TP", rf"\fB{code}\fR", _prose(f"{meaning[0].upper()}{meaning[1:]}.")]
    return [*lines, ".PP", _prose(REMARK), *_man_examples("")]


def _man_of_command(command: Command) -> list[str]:
    lines = _man_head(_man_name(command.name), _summary(command))
    words = command.synopsis
    called = len(command.name.split()) + 1
    lines += [rf"\fB{' '.join(words[:called])}\fR {_code(' '.join(words[called:]))}", ".SH DESCRIPTION"]
    lines += "\n.PP\n".join(map(_prose, command.click.help.strip().split("\n\n"))).splitlines()
    for heading, parameters in _panels(command.click.get_params(command.context)).items():
        lines.append(f".SH {heading.upper()}")
        for each in parameters:
            lines += [".TP", _man_option(each), _prose(" ".join(_remarks(each, command.context)))]
    lines += [*_man_examples(command.name), ".SH EXIT STATUS", rf"See \fB{PROGRAM}\fR(1)."]
    return lines


def _man_name(command: str) -> str:
    return f"{PROGRAM}-{command.replace(' ', '-')}"


def _man_head(name: str, summary: str) -> list[str]:
    text = _prose(summary.rstrip("."))
    return [
        r".\" Generated by `make reference`. Do not edit.",
        f'.TH {_code(name.upper())} 1 "" "{PROGRAM} {__version__}" "Job Gateway"',
        ".SH NAME",
        rf"{_code(name)} \- {text[0].lower() if text[1].islower() else text[0]}{text[1:]}",
        ".SH SYNOPSIS",
    ]


def _summary(command: Command) -> str:
    """Return the first sentence of the help of a command."""
    return re.split(r"(?<=\.)\s", command.click.help.strip(), maxsplit=1)[0]


def _man_option(parameter: Any) -> str:
    value = "|".join(rf"\fI{_code(each)}\fR" for each in _value(parameter).split("|") if each)
    if parameter.param_type_name == "argument":
        return value
    names = ", ".join(rf"\fB{_code(each)}\fR" for each in _names(parameter))
    bounds = f" ({_bounds(parameter)})" if _bounds(parameter) else ""
    return f"{names} {value}{bounds}".rstrip()


def _man_examples(name: str) -> list[str]:
    lines: list[str] = []
    for is_comment, group in itertools.groupby(EXAMPLES[name].strip().splitlines(), lambda each: each.startswith("#")):
        texts = list(group)
        lines += [".PP", *(_prose(each.lstrip("# ")) for each in texts)] if is_comment else _man_block(texts)
    # A heading begins a paragraph.
    return [".SH EXAMPLES", *lines[1:]]


def _man_block(lines: list[str]) -> list[str]:
    return [".PP", ".RS 4", ".EX", *map(_line, lines), ".EE", ".RE"]


def _prose(text: str) -> str:
    r"""Return a paragraph for troff. Names in backticks are bold, and options can be copied."""
    words = " ".join(text.split()).replace("\\", r"\e")
    # Alone, a hyphen is a sign for reading, such as a dash in another font.
    words = re.sub(r"(?<![\w-])-[\w-]*", lambda found: found[0].replace("-", r"\-"), words)
    lines = textwrap.wrap(
        re.sub(r"`([^`]*)`", r"\\fB\1\\fR", words), 78, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(map(_started, lines))


def _line(text: str) -> str:
    return _started(_code(text))


def _code(text: str) -> str:
    """Return a text for troff in which each character can be copied."""
    for character, name in {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}.items():
        text = text.replace(character, name)
    return text


def _started(line: str) -> str:
    # At the start of a line, both would be a request.
    return rf"\&{line}" if line.startswith((".", "'")) else line
