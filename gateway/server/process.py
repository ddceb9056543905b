"""The process of `serve`: event loop, signals, start and drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, TypeVar

import structlog
import uvloop

from gateway import __version__
from gateway.clock import SystemClock
from gateway.server import defaults, handshakes, signals
from gateway.server.banner import banner
from gateway.server.descriptors import log_shortages
from gateway.server.garbage import GarbageCollector
from gateway.server.gateway import Gateway
from gateway.server.listener import ListenerLost
from gateway.telemetry import logs, tracing
from gateway.threads import leave_after

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import NoReturn

    from gateway.config import Settings


T = TypeVar("T")

_log = structlog.get_logger()


def run(main: Coroutine[None, None, T]) -> T:
    """Run a coroutine to its end, as the only work of this process."""
    return uvloop.run(_collecting_garbage(main))


async def _collecting_garbage(main: Coroutine[None, None, T]) -> T:
    collecting = asyncio.get_running_loop().create_task(GarbageCollector(SystemClock()).run())
    try:
        return await main
    finally:
        collecting.cancel()


def exit_now(code: int) -> NoReturn:
    """Write the rest of the log and end the process, because Python's own exit would wait for threads that hang."""
    with contextlib.suppress(OSError, ValueError):
        logging.shutdown()
        for each in (sys.stdout, sys.stderr):
            if each is not None:
                each.flush()
    os._exit(code)


async def serve(settings: Settings, remarks: Sequence[str] = ()) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain. A second signal ends the process immediately.

    Args:
        settings: The settings.
        remarks: Remarks about their sources, which the log shows.

    Returns:
        The exit code: 0, or 1 if the listener was lost.

    Raises:
        OSError: An address cannot be bound.
        ConfigError: A file that a setting names, or a variable of OpenTelemetry, cannot be used.
    """
    standard_error = handshakes.report() if handshakes.traced() else logs.STANDARD_ERROR
    logs.configure(settings.log_format, settings.log_level, standard_error)
    logs.take_over()
    for each in remarks:
        _log.warning("settings.ignored", why=each)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.log_unhandled)

    def limit_the_drain() -> None:
        # The process must end even if the event loop, or a file that the start waits for, hangs forever.
        leave_after(settings.drain_grace_seconds + defaults.CLOSE_SECONDS, 1)

    def stop() -> None:
        limit_the_drain()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stopping.set)

    # A second signal means that no one wants to wait for the drain. Python's own exit would wait for threads.
    signals.watch(first=stop, later=lambda: os._exit(1))
    shortages = loop.create_task(log_shortages(SystemClock()))
    gateway = Gateway(settings, tracing.from_environment())
    await gateway.start()
    _report_serving(settings, gateway.address, gateway.admin_address)
    gateway.probe_upstream()
    listening = loop.create_task(_is_listener_lost(gateway))
    await asyncio.wait([listening, loop.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        limit_the_drain()
    else:
        _log.info("drain.started", grace_seconds=settings.drain_grace_seconds)
    # A lost listener leaves open streams, which may use the grace, too.
    await gateway.stop(settings.drain_grace_seconds)
    lost = await listening
    shortages.cancel()
    _log.info("process.stopped")
    logs.flush(defaults.LAST_LINES_SECONDS)
    return int(lost)


def _report_serving(settings: Settings, address: str, admin_address: str) -> None:
    if logs.on_terminal() and (settings.log_format or logs.TEXT) == logs.TEXT:
        logs.show(banner(settings, address, admin_address, width=logs.columns(), colours=logs.colours()))
        return
    _log.info(
        "serving",
        address=address,
        admin_address=admin_address,
        tls=settings.tls,
        upstream=settings.upstream_url,
        state=settings.state_store,
        own_token=settings.upstream_token_file is not None,
        limits=settings.changed_limits,
        log_level=settings.log_level,
        version=__version__,
    )


async def _is_listener_lost(gateway: Gateway) -> bool:
    """Wait until the listener ends; return whether it was lost, and log that."""
    try:
        await gateway.wait_closed()
    except ListenerLost as error:
        _log.error("listener.lost", why=str(error))
        return True
    return False
