"""`serve` and `simulate`: the gateway, and a simulated upstream to try it with."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gateway.cli import stdio
from gateway.cli.credentials import TokenUnusable, read_token
from gateway.cli.exit_codes import USAGE
from gateway.cli.formatting import clean
from gateway.cli.serve_check import check_settings
from gateway.cli.serve_options import given_settings
from gateway.cli.session import output_lost, usage_error
from gateway.server import signals

DEMO_TOKEN = "demo-token"  # noqa: S105 - public, accepted only by the simulator

_WELCOME = """The simulator listens: {url}

Start a gateway in front of it, and send jobs from another terminal:

  JOBGATEWAY_UPSTREAM_URL={url} jobgateway serve

  {hint}
  jobgateway run --workspace 1 --entity 1 --method succeed --param duration=5
  jobgateway run --workspace 1 --entity 1 --method fail
  jobgateway run --workspace 1 --entity 1 --method refuse

The method of a job selects what it does. Other methods succeed:

  {methods}

For durations, progress, results and faults: python -m pydoc gateway.simulator gateway.simulator.parameters
"""

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
    token, hint = DEMO_TOKEN, f"export JOBGATEWAY_TOKEN={DEMO_TOKEN}"
    if token_file or os.environ.get("JOBGATEWAY_TOKEN"):
        hint = "# with the token of the simulator, which is not shown"
        try:
            token = read_token(token_file)
        except TokenUnusable as error:
            usage_error(str(error))
    asyncio.run(_simulate(listen, token, hint))


async def _simulate(listen: str, token: str, hint: str) -> None:
    from gateway.simulator import METHODS, Simulator
    from gateway.telemetry import logs

    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        usage_error(f"--listen: {listen} is not HOST:PORT, such as 127.0.0.1:8080")
    logs.configure(logs.TEXT)
    stop = asyncio.Event()
    for number in signals.stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = Simulator(tokens=frozenset({token}))
    try:
        await simulator.start(host.strip("[]"), int(port))
    except OSError as error:
        usage_error(f"--listen: {listen} cannot be bound: {error.strerror}")
    except UnicodeError:
        # getaddrinfo encodes the host with IDNA.
        usage_error(f"--listen: {listen} cannot be bound: the host is not a name")
    try:
        typer.echo(_WELCOME.format(url=simulator.url, hint=hint, methods=", ".join(METHODS)))
        stdio.check()
        await stop.wait()
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    finally:
        await simulator.stop()
