"""The commands."""

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from gateway.cli import demo, dev, serve, stdio, unary, watch
from gateway.cli.commands import Commands
from gateway.cli.doctor.command import doctor
from gateway.cli.exit_codes import EXPLAINED
from gateway.cli.options import expanded
from gateway.cli.serve_options import ServeCommand
from gateway.cli.session import output_lost

app = typer.Typer(
    name="jobgateway",
    cls=Commands,
    help=f"VIKTOR jobs over gRPC: send them, and watch them without polling.\n\n{EXPLAINED}",
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks show local variables, such as the token.
    pretty_exceptions_enable=False,
)

_JOBS: tuple[Callable[..., None], ...] = (
    watch.run,
    watch.watch,
    unary.send,
    unary.get,
    unary.wait,
    unary.cancel,
)
_SERVERS: tuple[Callable[..., None], ...] = (dev.dev, serve.simulate, demo.demo)

for command in _JOBS:
    app.command(rich_help_panel="Jobs")(expanded(command))
app.command(rich_help_panel="Help")(expanded(doctor))
app.command(rich_help_panel="Servers", cls=ServeCommand)(serve.serve)
for command in _SERVERS:
    app.command(rich_help_panel="Servers")(command)


def run() -> NoReturn:
    """Run the command in the arguments, and leave the process with its exit code."""
    try:
        app(prog_name="jobgateway")
    except SystemExit as left:
        if left.code:
            raise
    # Commands have checked their own output; this is for `--help`.
    try:
        stdio.check()
    except stdio.OutputLost as error:
        sys.exit(output_lost(error))
    sys.exit(0)
