"""`serve --check`: all mistakes of the settings together, or the settings."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from gateway.cli.exit_codes import USAGE
from gateway.cli.output import stdio, terminal
from gateway.cli.output.formatting import clean

if TYPE_CHECKING:
    from gateway.config import Sources

# User and password, and options, of a URL whose form was checked.
_SECRETS = re.compile(r"(?<=://)[^@/]*(?=@)|(?<=\?).*")


def check_settings(sources: "Sources") -> None:
    """Print the settings, or leave with all mistakes of the settings and their files."""
    # Imported here, so that other commands do not wait for the server's imports.
    from gateway.config import read
    from gateway.server.check import check
    from gateway.telemetry import logs

    # Libraries write some of their remarks to the log.
    logs.configure("text")
    reading = read(sources)
    found = asyncio.run(check(reading.settings))
    for remark in [*reading.remarks, *found.remarks, *map(reading.as_given, found.in_use)]:
        terminal.note(f"remark: {clean(remark)}")
    problems = [*reading.problems, *map(reading.as_given, found.problems)]
    for problem in problems:
        terminal.problem(clean(problem))
    if problems:
        terminal.problem(
            f"{len(problems)} {'mistake' if len(problems) == 1 else 'mistakes'}; the gateway would not start"
        )
        raise typer.Exit(USAGE)
    rows = list(_rows(reading.settings.model_dump(), reading.sources))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    stdio.check()
    when = ", once its addresses are free" if found.in_use else ""
    terminal.note(f"the gateway would start with these settings{when}")


def _rows(settings: Mapping[str, object], sources: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    from gateway.config import PREFIX

    for name, value in settings.items():
        yield PREFIX + name.upper(), _shown(value), sources[name]


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    return clean(_SECRETS.sub("***", text))
