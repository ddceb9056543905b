"""The commands.

Their modules have the options and the help, and import the work of a command when it runs. Therefore `--help`, wrong
usage and completion are fast.
"""

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from gateway.cli.commands import completion, config, jobs, ping, servers
from gateway.cli.doctor.command import doctor
from gateway.cli.exit_codes import EXPLAINED
from gateway.cli.failures.problems import output_lost
from gateway.cli.options import variables
from gateway.cli.options.shared import expanded
from gateway.cli.output import stdio
from gateway.cli.parsing.command import NAME, Command, Commands
from gateway.cli.parsing.serve_options import ServeCommand

app = typer.Typer(
    name=NAME,
    cls=Commands,
    help=f"VIKTOR jobs over gRPC: send them, and watch them without polling.\n\n{EXPLAINED}",
    no_args_is_help=True,
    # Boxes would cut names at 80 columns, and Rich doubles the time of `--help`.
    rich_markup_mode=None,
    add_completion=False,
    context_settings={
        "auto_envvar_prefix": variables.PREFIX,
        "help_option_names": ["--help", "-h"],
        "max_content_width": 100,
    },
    # Its tracebacks show local variables, such as the token.
    pretty_exceptions_enable=False,
)

_JOBS: tuple[Callable[..., None], ...] = (
    jobs.run,
    jobs.watch,
    jobs.send,
    jobs.get,
    jobs.wait,
    jobs.cancel,
)
_SERVERS: tuple[Callable[..., None], ...] = (servers.dev, servers.simulate, servers.demo)

for command in _JOBS:
    app.command(rich_help_panel="Jobs", cls=Command)(expanded(command))
for command in (ping.ping, doctor):
    app.command(rich_help_panel="Help", cls=Command)(expanded(command))
app.command(rich_help_panel="Help", cls=Command)(completion.completion)
app.command("__complete", hidden=True, cls=Command)(completion.complete)
app.add_typer(config.app, rich_help_panel="Help")
app.command(rich_help_panel="Servers", cls=ServeCommand)(servers.serve)
for command in _SERVERS:
    app.command(rich_help_panel="Servers", cls=Command)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        # Imported here, because they are slow to import.
        import platform
        from importlib import metadata

        # A report of a fault needs all three.
        parts = f"Python {platform.python_version()}, grpcio {metadata.version('grpcio')}"
        typer.echo(f"jobgateway {metadata.version('jobgateway')} ({parts})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        # JOBGATEWAY_VERSION may be set for another purpose.
        typer.Option(
            "--version",
            is_eager=True,
            callback=_show_version,
            allow_from_autoenv=False,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Carry the options that come before a command."""


def run() -> NoReturn:
    """Run the command in the arguments, and leave the process with its exit code."""
    try:
        app(prog_name=NAME)
    except SystemExit as left:
        if left.code:
            raise
    # Commands have checked their own output; this is for `--help`.
    try:
        stdio.check()
    except stdio.OutputLost as error:
        sys.exit(output_lost(error))
    sys.exit(0)
