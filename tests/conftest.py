from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from gateway.cli.commands.servers import simulate
from gateway.config import Settings
from gateway.simulator import Simulator
from tests.support.certificates import Authority, MountedSecret
from tests.support.gateways import TOKEN, running, stub
from tests.support.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway

# No example has a time limit, because a busy machine would break it. In CI the examples are the same in each run.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("development", calm, max_examples=40)
settings.register_profile("ci", calm, max_examples=400, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "development")

# A shell starts background jobs with SIGINT ignored, which the processes that tests interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same with `nohup` and SIGHUP.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A terminal has the size that its test gives it. The readline of pytest exports another, which xdist's workers inherit.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


def default_ports() -> list[int]:
    """Return the default ports of the gateway and the simulator."""
    settings = [Settings.model_fields[name].default for name in ("listen", "admin_listen")]
    addresses = [*settings, inspect.signature(simulate).parameters["listen"].default]
    return [int(address.rpartition(":")[2]) for address in addresses]


@pytest.fixture(autouse=True, scope="session")
def _default_ports_are_taken() -> Iterator[None]:
    """Occupy the default ports, so that a test that uses one fails on every machine."""
    with contextlib.ExitStack() as stack:
        for port in default_ports():
            listener = stack.enter_context(socket.socket())
            # If a gateway on this machine already uses the port, the effect is the same.
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


# What grpc.aio leaves behind: the error of its accept loop after a path that is not text (`server/listener.py`), and
# an event that arrives after the event loop of its test has ended.
GRPC_AIO = ("_server_main_loop", "PollerCompletionQueue._handle_events")


class LostErrors(logging.Handler):
    """Collects what asyncio reports of errors that nobody reads, such as the one of a task that died."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._reports: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        report = self.format(record)
        if not any(each in report for each in GRPC_AIO):
            self._reports.append(report)

    def take(self) -> list[str]:
        """Return the reports since the last time."""
        reports, self._reports = self._reports, []
        return reports


@pytest.fixture(scope="session")
def lost_errors() -> LostErrors:
    """Collect the errors of tasks that died."""
    errors = LostErrors()
    logging.getLogger("asyncio").addHandler(errors)
    return errors


@pytest.fixture(autouse=True, scope="module")
def _no_error_is_lost(lost_errors: LostErrors) -> Iterator[None]:
    """Fail after a module if one of its tasks died and nobody read its error.

    asyncio reports that when the task is collected. A collection after each test would take a minute in total.
    """
    yield
    gc.collect()
    assert lost_errors.take() == []


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[dict[str, object]]]:
    """Return the events that were logged."""
    with structlog.testing.capture_logs() as events:
        yield events  # type: ignore[misc]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a scripted upstream on a real socket."""
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """Start a gateway in front of the scripted upstream."""
    async with running(upstream.url) as server:
        yield server


@pytest.fixture
async def jobs(gateway: Gateway) -> AsyncIterator[rpc.JobServiceAsyncStub]:
    """Return a stub of the gateway in front of the scripted upstream."""
    async with stub(gateway) as service:
        yield service


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Return an authority that both sides trust."""
    return Authority()


@pytest.fixture
def mounted(tmp_path: Path, authority: Authority) -> MountedSecret:
    """Return the TLS files of a gateway, with a certificate of the authority."""
    files = MountedSecret(tmp_path)
    files.put(authority.server(), authority.pem)
    return files


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Start a simulator on a real socket."""
    server = Simulator(tokens=frozenset({TOKEN}))
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop()
