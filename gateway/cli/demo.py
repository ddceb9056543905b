"""`demo`: jobs through a gateway and an upstream that are started for it, over real sockets, and stopped again."""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

import structlog
import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client
from jobgateway_client.deadline import Deadline
from rich.console import Console

from gateway.cli import stdio
from gateway.cli.exit_codes import CALL_FAILED, INTERRUPTED, JOB_FAILED, SUCCESS
from gateway.cli.options import OutputOptions
from gateway.cli.params import read_params
from gateway.cli.serve import DEMO_TOKEN
from gateway.cli.session import Session, output_lost
from gateway.cli.watch import follow

_T = TypeVar("_T")

_SECONDS = 15.0
_JOBS: tuple[tuple[str, str, list[str], int], ...] = (
    ("A job that tells of its progress and succeeds", "succeed", ["duration=2", "steps=5"], SUCCESS),
    ("A job whose code failed: the call went well, the job did not", "fail", ["duration=0.5"], JOB_FAILED),
    ("A job that the upstream refused: there is no job, and the call says why", "refuse", [], CALL_FAILED),
)


def demo() -> None:
    """Run three jobs through a gateway and an upstream of its own, and stop both again."""
    console = Console(highlight=False, soft_wrap=True)
    # What the servers log would stand between the lines of the jobs.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with stdio.interruptible(), servers() as (upstream, gateway):
            console.print(f"An upstream listens at {upstream}, a gateway before it at {gateway}.")
            as_expected = [_show(console, gateway, *job) for job in _JOBS]
        console.print("\nBoth are stopped again. Next: [bold]jobgateway simulate[/], and what it says.")
        stdio.check()
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    if not all(as_expected):
        raise typer.Exit(JOB_FAILED)


def _show(console: Console, gateway: str, title: str, method: str, param: list[str], expected: int) -> bool:
    """Runs one job as `run` does, and says whether it ended as it should."""
    words = ["jobgateway run --workspace 1 --entity 1 --method", method, *(f"--param {each}" for each in param)]
    stdio.check()
    console.print(f"\n[bold]{title}[/]\n[dim]$ {' '.join(words)}[/]")
    request = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name=method)
    request.params_json = read_params(param, None, None) or b"{}"
    code = SUCCESS
    with Client(gateway, token=DEMO_TOKEN, attempts=1) as client:
        current = Session(client, gateway, Deadline(_SECONDS))
        try:
            follow(current, pb.RunJobRequest(request=request), OutputOptions(), cancel=False)
        except typer.Exit as left:
            code = left.exit_code
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    console.print(f"[dim]exit code {code}[/]")
    return code == expected


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Runs an upstream and a gateway; gives the URL of the one and the address of the other."""
    # In a thread of their own, for the client blocks.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_SECONDS)

    try:
        running, upstream, gateway = wait_for(_start())
        try:
            yield upstream, gateway
        finally:
            wait_for(running.aclose())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start() -> tuple[AsyncExitStack, str, str]:
    # Here, so that the other commands need not wait for the servers' imports.
    from gateway.config import Settings
    from gateway.server.gateway import Gateway
    from gateway.simulator import Simulator

    async with AsyncExitStack() as stack:
        simulator = Simulator(tokens=frozenset({DEMO_TOKEN}))
        await simulator.start("127.0.0.1", 0)
        stack.push_async_callback(simulator.stop)
        settings = Settings(
            listen="127.0.0.1:0",
            admin_listen="127.0.0.1:0",
            upstream_url=simulator.url,
            poll_interval_max_seconds=0.25,
        )
        gateway = Gateway(settings)
        await gateway.start()
        stack.push_async_callback(gateway.stop, 0)
        return stack.pop_all(), simulator.url, gateway.address
