"""The work of `dev`: a gateway in front of a simulated upstream, in one quiet process."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer

from gateway.cli.exit_codes import INTERRUPTED
from gateway.cli.failures.problems import output_lost, usage_error
from gateway.cli.options.shared import DEFAULT_TARGET, DEMO_TOKEN, target_option
from gateway.cli.output import stdio
from gateway.server import signals

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.server.gateway import Gateway
    from gateway.simulator import Simulator

REPLACED = "http://127.0.0.1"
"""The place of the address of the simulator in settings."""


def run_until_stopped(listen: str | None) -> None:
    """Run both servers until a signal stops them. `listen` is the address of the gateway, if one was given."""
    from gateway.server.process import run

    # Before other threads start, so that a second Ctrl-C leaves immediately even if the loop hangs.
    signals.block()
    try:
        run(_serve(listen))
    except OSError as error:
        # Its text names the variable of `serve`.
        usage_error(str(error).replace("JOBGATEWAY_LISTEN", "--listen"))
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error


async def _serve(listen: str | None) -> None:
    from gateway.telemetry import logs

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)

    signals.watch(first=stop, later=lambda: os._exit(INTERRUPTED))
    logs.configure(logs.TEXT, "warning")
    async with AsyncExitStack() as stack:
        simulator, gateway = await start(stack, await _settings(listen))
        _welcome(simulator, gateway, moved=listen is None and gateway.address != DEFAULT_TARGET)
        stdio.check()
        await stopping.wait()


async def start(stack: AsyncExitStack, settings: Settings) -> tuple[Simulator, Gateway]:
    """Start a simulator, and a gateway in front of it; `stack` stops both.

    `settings.upstream_url` is replaced.

    Raises:
        OSError: An address cannot be bound.
    """
    from gateway.server.gateway import Gateway
    from gateway.simulator import Simulator

    simulator = Simulator(tokens=frozenset({DEMO_TOKEN}))
    await simulator.start("127.0.0.1", 0)
    stack.push_async_callback(simulator.stop)
    gateway = Gateway(settings.model_copy(update={"upstream_url": simulator.url}))
    # Without a grace, because the watchers resume anyway.
    stack.push_async_callback(gateway.stop, 0)
    await gateway.start()
    return simulator, gateway


async def _settings(listen: str | None) -> Settings:
    from pydantic import ValidationError

    from gateway.config import Settings

    try:
        return Settings(
            listen=listen or await free_or_any(DEFAULT_TARGET),
            admin_listen="127.0.0.1:0",
            upstream_url=REPLACED,
            # A person watches.
            poll_interval_max_seconds=1.0,
        )
    except ValidationError:
        usage_error(f"--listen: {listen} is not the HOST:PORT of a loopback address, such as {DEFAULT_TARGET}")


async def free_or_any(listen: str) -> str:
    """Return `listen`, or the same host with port 0 if the port is taken."""
    from gateway.server.addresses import bind, join_host_port, resolve, split

    host, port = split(listen)
    try:
        bound = bind(await resolve(host), port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return join_host_port(host, 0)
    for each in bound:
        each.close()
    return listen


def _welcome(simulator: Simulator, gateway: Gateway, *, moved: bool) -> None:
    from rich.console import Console

    from gateway.server.banner import MAX_WIDTH, reachable, show

    console = Console(highlight=False)
    console.width = min(console.width, MAX_WIDTH)
    rows = [
        ("gRPC", f"{gateway.address} (plain text{f'; {DEFAULT_TARGET} is taken' if moved else ''})"),
        ("Status page", f"http://{gateway.admin_address}/"),
        ("Upstream", f"{simulator.url} (simulated)"),
        ("Token", DEMO_TOKEN),
        ("Stop", "Ctrl-C"),
    ]
    target = reachable(gateway.address)
    commands = [
        f"export JOBGATEWAY_TOKEN={DEMO_TOKEN}",
        f"jobgateway run --workspace 1 --entity 7 --method succeed --param duration=5{target_option(target)}",
    ]
    show(console, rows, "Run a job from another terminal:", commands)
