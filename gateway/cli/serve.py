"""`serve` and `simulate`: the gateway, and an upstream to try it with."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gateway.cli import stdio
from gateway.cli.credentials import TokenUnusable, read_token
from gateway.cli.exit_codes import USAGE
from gateway.cli.formatting import clean
from gateway.cli.session import output_lost, usage_error
from gateway.server import signals

DEMO_TOKEN = "demo-token"  # noqa: S105 - the simulator's only, and public

_WELCOME = """The simulator listens: {url}

Start a gateway in front of it, and send jobs from another terminal:

  JOBGATEWAY_UPSTREAM_URL={url} jobgateway serve

  {hint}
  jobgateway run --workspace 1 --entity 1 --method succeed --param duration=5
  jobgateway run --workspace 1 --entity 1 --method fail
  jobgateway run --workspace 1 --entity 1 --method refuse

What a job does goes by its method; one that is none of these succeeds:

  {methods}

How long, with which progress, result and faults: python -m pydoc gateway.simulator gateway.simulator.parameters
"""

SimulatorListen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 is any free one.")
]
SimulatorTokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"The file with the token to let in; without it that in JOBGATEWAY_TOKEN, or else {DEMO_TOKEN}.",
        show_default=False,
    ),
]


def serve() -> None:
    """Start the gateway; its settings are the variables JOBGATEWAY_*, see docs/reference/settings.md."""
    # Here, so that the other commands need not wait for the server's imports.
    from gateway.auth import authorities
    from gateway.config import Settings, load
    from gateway.errors import ConfigError

    try:
        settings = load()
        authorities.check()
    except ConfigError as error:
        _cannot_start(str(error))

    from gateway.server.process import leave, run
    from gateway.server.process import serve as serve_gateway

    async def serve_and_leave(settings: Settings) -> None:
        await serve_gateway(settings)
        leave(0)

    try:
        run(serve_and_leave(settings))
    except (ConfigError, OSError) as error:
        _cannot_start(str(error))


def _cannot_start(line: str) -> NoReturn:
    from gateway.telemetry.logs import last_line

    last_line(clean(line))
    raise typer.Exit(USAGE)


def simulate(
    listen: SimulatorListen = "127.0.0.1:8080",
    token_file: SimulatorTokenFile = None,
) -> None:
    """Start an upstream that runs no app: what a job does is chosen by its method."""
    token, hint = DEMO_TOKEN, f"export JOBGATEWAY_TOKEN={DEMO_TOKEN}"
    if token_file or os.environ.get("JOBGATEWAY_TOKEN"):
        hint = "# with the token that the simulator was given, which is not shown"
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
        usage_error(f"--listen {listen} is not HOST:PORT")
    logs.configure("text")
    stop = asyncio.Event()
    for number in signals.stopping():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = Simulator(tokens=frozenset({token}))
    try:
        await simulator.start(host.strip("[]"), int(port))
    except OSError as error:
        usage_error(f"--listen {listen} cannot be bound: {error.strerror}")
    except UnicodeError:
        usage_error(f"--listen {listen} cannot be bound: the host is no name")  # as IDNA has it, which getaddrinfo asks
    try:
        typer.echo(_WELCOME.format(url=simulator.url, hint=hint, methods=", ".join(METHODS)))
        stdio.check()
        await stop.wait()
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    finally:
        await simulator.stop()
