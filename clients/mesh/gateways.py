"""Gateways whose admin address and log the mesh uses."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clients.runner.gateways import GatewayProcess, free_address

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTINGS = {"JOBGATEWAY_DRAIN_GRACE_SECONDS": "3"}


class Gateway(GatewayProcess):
    """A gateway process that also keeps the port of its admin address."""

    def __init__(self, upstream_url: str, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        host, self.admin_port = free_address()
        super().__init__(
            upstream_url, {**_SETTINGS, **settings, "JOBGATEWAY_ADMIN_LISTEN": f"{host}:{self.admin_port}"}
        )

    def ended(self, method: str) -> list[dict[str, Any]]:
        """Return the log lines of the calls of a method that have ended."""
        lines = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in lines if line.get("event") == "call" and line.get("method") == method]

    async def restart(self) -> None:
        """Kill the process and start it again."""
        await self.kill()
        await self.start()

    async def roll(self) -> None:
        """Drain the process, and start it again when it has ended."""
        self.drain()
        await self.gone()
        await self.start()
