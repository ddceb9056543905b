"""Gateways as separate processes, which can be killed and drained."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SETTINGS = {
    "JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS": "0.5",
    "JOBGATEWAY_DRAIN_GRACE_SECONDS": "1",
    # Several run at the same time.
    "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
}
_START_SECONDS = 90.0
# Below the ports of outgoing connections, which could otherwise take a port while its gateway is down.
_PORTS = range(20_000, 32_000)
_given: set[tuple[str, int]] = set()


class GatewayProcess:
    """`python -m gateway serve` in front of `upstream_url`; it keeps its port when it is started again."""

    def __init__(self, upstream_url: str, settings: Mapping[str, str]) -> None:
        self.address = free_address()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
        self._environment = {
            **inherited,
            **_SETTINGS,
            **settings,
            "JOBGATEWAY_UPSTREAM_URL": upstream_url,
            "JOBGATEWAY_LISTEN": "{}:{}".format(*self.address),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self.log: list[str] = []
        self.on_line: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Start the process, and return when it serves.

        Raises:
            RuntimeError: The process ended; the message is its log.
            TimeoutError: The process does not serve after 90 seconds.

        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", env=self._environment, stderr=asyncio.subprocess.PIPE
        )
        serving = asyncio.Event()
        self._log = asyncio.create_task(self._read_log(self._process, serving))
        async with asyncio.timeout(_START_SECONDS):
            await serving.wait()
        if self._process.returncode is not None:
            raise RuntimeError("".join(self.log))

    async def _read_log(self, process: asyncio.subprocess.Process, serving: asyncio.Event) -> None:
        assert process.stderr is not None  # noqa: S101 - it is a pipe, as requested above
        while line := await process.stderr.readline():
            self.log.append(line.decode(errors="replace"))
            self.on_line()
            if '"serving"' in self.log[-1]:
                serving.set()
        await process.wait()
        serving.set()

    def drain(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    async def gone(self) -> None:
        """Return when the process has ended."""
        if self._process is not None and self._log is not None:
            await self._process.wait()
            await self._log

    async def kill(self) -> None:
        """Send SIGKILL, and return when the process has ended."""
        self._send(signal.SIGKILL)
        await self.gone()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


def free_address() -> tuple[str, int]:
    """Return a free port of the loopback address, as host and port; each call returns another one."""
    while True:
        address = "127.0.0.1", random.choice(_PORTS)  # noqa: S311 - no cryptography
        # The port of a gateway that is down looks free.
        if address in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(address)
            _given.add(address)
            return address
