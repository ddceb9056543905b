"""`serve`, `dev`, `demo` and `simulate`: the gateway, and a simulated upstream to try it with."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli.exit_codes import USAGE
from gateway.cli.failures.problems import output_lost
from gateway.cli.options import variables
from gateway.cli.options.shared import DEFAULT_TARGET, DEMO_TOKEN
from gateway.cli.output import stdio
from gateway.cli.output.formatting import clean
from gateway.cli.parsing.serve_options import given_settings

if TYPE_CHECKING:
    from gateway.config import Reading

DevListen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help=f"Address of the gateway; port 0 selects a free one. Default: {DEFAULT_TARGET}, or a free port if it is "
        "taken.",
        show_default=False,
    ),
]
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

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read settings from this TOML file. Options and variables take precedence over it.",
        show_default=False,
        rich_help_panel="Settings file",
    ),
]


def serve(context: typer.Context, config: SettingsFile = None, check: Check = False) -> None:
    """Start the gateway. Each setting is an option, a variable, or a line of a file.

    For example, --max-calls 500, JOBGATEWAY_MAX_CALLS=500, or max_calls = 500 in the file of --config. See
    docs/reference/settings.md.
    """
    # Imported here, so that other commands do not wait for the server's imports.
    from gateway.config import Settings, Sources, read

    sources = Sources(given_settings(context), config, partial(variables.is_of_client, context.find_root()))
    if check:
        from gateway.cli.servers.serve_check import check_settings

        try:
            check_settings(sources)
        except stdio.OutputLost as error:
            raise typer.Exit(output_lost(error)) from error
        return
    from gateway.auth import authorities
    from gateway.errors import ConfigError

    reading = read(sources)
    if reading.problems:
        _cannot_start(reading, *reading.problems)
    try:
        # Before the imports, because those of libraries read the same file, and could hang.
        authorities.check()
    except ConfigError as error:
        _cannot_start(reading, *error.args)

    from gateway.server.process import exit_now, run
    from gateway.server.process import serve as serve_gateway

    async def serve_and_leave(settings: Settings) -> None:
        exit_now(await serve_gateway(settings, reading.remarks))

    try:
        run(serve_and_leave(reading.settings))
    except ConfigError as error:
        _cannot_start(reading, *error.args)
    except OSError as error:
        _cannot_start(reading, str(error))


def _cannot_start(reading: "Reading", *problems: str) -> NoReturn:
    from gateway.telemetry.logs import start_failed

    # The format is a setting too, and other settings may be wrong.
    start_failed([clean(reading.as_given(each)) for each in problems], reading.settings.log_format)
    raise typer.Exit(USAGE)


def dev(listen: DevListen = None) -> None:
    """Start a gateway in front of a simulated upstream, to try it without an account.

    Settings in the environment do not apply. The state is forgotten at the end.
    """
    from gateway.cli.servers import dev as work

    work.run_until_stopped(listen)


def demo() -> None:
    """Start a gateway and a simulated upstream, run jobs through both, and stop them. It takes 15 seconds."""
    from gateway.cli.servers import demo as work

    work.show()


def simulate(
    listen: SimulatorListen = "127.0.0.1:8080",
    token_file: SimulatorTokenFile = None,
) -> None:
    """Start a simulated upstream, in which the method of a job selects what it does."""
    from gateway.cli.servers import simulation

    simulation.run_until_stopped(listen, token_file, DEMO_TOKEN)
