"""`demo`: jobs through a gateway and a simulated upstream, which run only for the demo, over real sockets."""

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

from gateway.cli import dev, stdio
from gateway.cli.exit_codes import CALL_FAILED, INTERRUPTED, JOB_FAILED, SUCCESS
from gateway.cli.options import OutputOptions
from gateway.cli.params import read_params
from gateway.cli.serve import DEMO_TOKEN
from gateway.cli.session import Session, output_lost
from gateway.cli.watch import follow

_T = TypeVar("_T")

_SECONDS = 15.0
_JOBS: tuple[tuple[str, str, list[str], int], ...] = (
    ("A job that reports its progress and succeeds", "succeed", ["duration=2", "steps=5"], SUCCESS),
    ("A job whose code fails: the call succeeds, the job does not", "fail", ["duration=0.5"], JOB_FAILED),
    ("A job that the upstream rejects: no job is created, and the error names the fields", "refuse", [], CALL_FAILED),
)


def demo() -> None:
    """Start a gateway and a simulated upstream, run three jobs through both, and stop them."""
    console = Console(highlight=False, soft_wrap=True)
    # The log of the servers would be mixed with the lines of the jobs.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with stdio.interruptible(), servers() as (upstream, gateway):
            console.print(f"A simulated upstream listens at {upstream}, and a gateway in front of it at {gateway}.")
            as_expected = [_show(console, gateway, *job) for job in _JOBS]
        console.print("\nBoth are stopped. Next: run [bold]jobgateway dev[/] and follow its instructions.")
        stdio.check()
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except stdio.OutputLost as error:
        raise typer.Exit(output_lost(error)) from error
    if not all(as_expected):
        raise typer.Exit(JOB_FAILED)


def _show(console: Console, gateway: str, title: str, method: str, param: list[str], expected: int) -> bool:
    """Run one job as `run` does, and return True if it ended as expected."""
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
    """Run an upstream and a gateway, and yield the URL of the upstream and the address of the gateway."""
    # In their own thread, because the client blocks.
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
    # Imported here, because this import would slow the other commands down.
    from gateway.config import Settings

    async with AsyncExitStack() as stack:
        settings = Settings(
            listen="127.0.0.1:0",
            admin_listen="127.0.0.1:0",
            upstream_url=dev.REPLACED,
            poll_interval_max_seconds=0.25,
        )
        simulator, gateway = await dev.start(stack, settings)
        return stack.pop_all(), simulator.url, gateway.address
