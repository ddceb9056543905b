"""`serve` and `simulate`: the gateway, and a simulated upstream to try it with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gateway.cli import stdio
from gateway.cli.exit_codes import USAGE
from gateway.cli.formatting import clean
from gateway.cli.problems import output_lost
from gateway.cli.serve_options import given_settings

DEMO_TOKEN = "demo-token"  # noqa: S105 - public, accepted only by the simulator

SimulatorListen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Address of the simulator; port 0 selects a free one.")
]
SimulatorTokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"File with the token to accept. Default: the token in JOBGATEWAY_TOKEN, or {DEMO_TOKEN}.",
        show_default=False,
    ),
]


Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Check the settings and their files, and print them or all mistakes, instead of starting.",
        rich_help_panel="Check",
    ),
]


def serve(context: typer.Context, check: Check = False) -> None:
    """Start the gateway. Each setting is an option, or a variable: JOBGATEWAY_MAX_CALLS is --max-calls."""
    flags = given_settings(context)
    if check:
        from gateway.cli.serve_check import check_settings

        try:
            check_settings(flags)
        except stdio.OutputLost as error:
            raise typer.Exit(output_lost(error)) from error
        return
    # Imported here, so that other commands do not wait for the server's imports.
    from gateway.auth import authorities
    from gateway.config import Settings, load
    from gateway.errors import ConfigError

    try:
        settings = load(flags)
        authorities.check()
    except ConfigError as error:
        _cannot_start(flags, *error.args)

    from gateway.server.process import exit_now, run
    from gateway.server.process import serve as serve_gateway

    async def serve_and_leave(settings: Settings) -> None:
        exit_now(await serve_gateway(settings))

    try:
        run(serve_and_leave(settings))
    except ConfigError as error:
        _cannot_start(flags, *error.args)
    except OSError as error:
        _cannot_start(flags, str(error))


def _cannot_start(flags: Mapping[str, str], *problems: str) -> NoReturn:
    from gateway.config import read
    from gateway.telemetry.logs import start_failed

    # The format is a setting too, and other settings may be wrong.
    start_failed([clean(each) for each in problems], read(flags).settings.log_format)
    raise typer.Exit(USAGE)


def simulate(
    listen: SimulatorListen = "127.0.0.1:8080",
    token_file: SimulatorTokenFile = None,
) -> None:
    """Start a simulated upstream, in which the method of a job selects what it does."""
    from gateway.cli import simulation

    simulation.run_until_stopped(listen, token_file, DEMO_TOKEN)
