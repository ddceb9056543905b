"""The work of `simulate`: a simulated upstream in a process of its own."""

import asyncio
import os
from pathlib import Path

import typer

from gateway.cli.client.credentials import TokenUnusable, read_token
from gateway.cli.failures.problems import output_lost, usage_error
from gateway.cli.options.shared import DEFAULT_TARGET, target_option
from gateway.cli.options.variables import TOKEN
from gateway.cli.output import stdio
from gateway.server import signals
from gateway.simulator import METHODS, Simulator
from gateway.telemetry import logs

_WELCOME = """The simulator listens: {url}

Start a gateway in front of it, and send jobs from another terminal:

  JOBGATEWAY_UPSTREAM_URL={url} jobgateway serve

  {hint}
  jobgateway run --workspace 1 --entity 1 --method succeed --param duration=5{target}
  jobgateway run --workspace 1 --entity 1 --method fail{target}
  jobgateway run --workspace 1 --entity 1 --method refuse{target}

The method of a job selects what it does. Other methods succeed:

  {methods}

For durations, progress, results and faults: python -m pydoc gateway.simulator gateway.simulator.parameters
"""


def run_until_stopped(listen: str, token_file: Path | None, default_token: str) -> None:
    """Run the simulator until a signal stops it. The `default_token` is public."""
    token, hint = default_token, f"export JOBGATEWAY_TOKEN={default_token}"
    if token_file or os.environ.get(TOKEN):
        hint = "# with the token of the simulator, which is not shown"
        try:
            token = read_token(token_file)
        except TokenUnusable as error:
            usage_error(str(error))
    asyncio.run(_simulate(listen, token, hint))


async def _simulate(listen: str, token: str, hint: str) -> None:
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
        typer.echo(
            _WELCOME.format(
                url=simulator.url, hint=hint, methods=", ".join(METHODS), target=target_option(DEFAULT_TARGET)
            )
        )
        stdio.check()
        await stop.wait()
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    finally:
        await simulator.stop()
