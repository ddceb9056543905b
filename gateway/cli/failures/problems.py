"""The ends of a command that made no call, or whose output was lost. This module has no slow imports."""

from typing import NoReturn

import typer

from gateway.cli.exit_codes import BROKEN_PIPE, OUTPUT_LOST, USAGE
from gateway.cli.options.shared import Output
from gateway.cli.output import json_output, stdio, terminal


def usage_error(line: str, output: Output = Output.TEXT, code: int = USAGE) -> NoReturn:
    """Print the problem of the command line or a setting, and leave."""
    terminal.problem(line)
    if output is Output.JSON:
        json_output.show_failure("USAGE" if code == USAGE else "UNAUTHENTICATED", line)
    raise typer.Exit(code)


def output_lost(error: stdio.OutputLost, whereabouts: str = "") -> int:
    """Print that the output was lost, and how to find the job that was sent. Return the exit code."""
    # Leaving a pipe early, as `head` does, is no error.
    if whereabouts or not error.reader_gone:
        terminal.problem("; ".join(filter(None, (str(error), whereabouts))))
    return BROKEN_PIPE if error.reader_gone else OUTPUT_LOST
