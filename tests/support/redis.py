"""A real Redis of a test, on a free port, and a door to it that can be shut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from tests.support.raw import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


SLOTS = 16_384


def need_redis() -> None:
    """Skip the test if there is no redis-server, except in CI."""
    if not shutil.which("redis-server"):
        assert not os.environ.get("CI"), "redis-server is missing"
        pytest.skip("redis-server is not on the PATH")


class RedisServer:
    """A Redis that writes each change to disk before it replies. It can be killed and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[str] | None = None
        self._reading: threading.Thread

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own arguments
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ready to accept connections" in line:
                # A full pipe would stop the server.
                self._reading = threading.Thread(target=self._process.stdout.read, daemon=True)
                self._reading.start()
                return
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        """Kill the server with -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._reading.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def empty(self) -> None:
        """Delete the data of a server that was killed."""
        for file in self._folder.rglob("*"):
            if file.is_file():
                file.unlink()

    def stop_answering(self) -> None:
        """Suspend the server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """Let a suspended server continue."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *command: str | int | bytes) -> Any:
        """Return the reply to a command."""
        async with self.client() as client:
            return await client.execute_command(*command)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A client for a look at the data."""
        client = Redis(port=self.port)
        try:
            yield client
        finally:
            await client.aclose()


class RedisCluster:
    """A Redis Cluster of servers that share the slots evenly."""

    def __init__(self, folder: Path, count: int) -> None:
        self.nodes: list[RedisServer] = []
        # The default is the port plus 10,000, which may be none.
        self._bus_ports = [free_port() for _ in range(count)]
        for port in self._bus_ports:
            data = folder / f"bus-{port}"
            data.mkdir()
            self.nodes.append(RedisServer(data, "--cluster-enabled", "yes", "--cluster-port", str(port)))

    async def start(self) -> None:
        """Start the nodes, and return when all know each other."""
        share = -(-SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            node.start()
            last = min(SLOTS, (number + 1) * share) - 1
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            await node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self._bus_ports[0])
        await self.complete()

    async def complete(self) -> None:
        """Return when each node sees all slots served."""

        async def seen() -> bool:
            infos = [await node.ask("CLUSTER", "INFO") for node in self.nodes]
            known = f"cluster_known_nodes:{len(self.nodes)}".encode()
            return all(b"cluster_state:ok" in info and known in info for info in infos)

        await eventually(seen)

    async def keys(self, number: int) -> list[bytes]:
        """Return the keys on a node."""
        return list(await self.nodes[number].ask("KEYS", "*"))

    async def move(self, key: str) -> None:
        """Move the slot of a key to the next node."""
        slot = await self.nodes[0].ask("CLUSTER", "KEYSLOT", key)
        names = [(await node.ask("CLUSTER", "MYID")).decode() for node in self.nodes]
        held = [await node.ask("CLUSTER", "COUNTKEYSINSLOT", slot) for node in self.nodes]
        source = next(number for number, keys in enumerate(held) if keys)
        target = (source + 1) % len(self.nodes)
        await self.nodes[target].ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        await self.nodes[source].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        keys = await self.nodes[source].ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
        await self.nodes[source].ask("MIGRATE", "127.0.0.1", self.nodes[target].port, "", 0, 5000, "KEYS", *keys)
        for number in (target, source):
            await self.nodes[number].ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def kill(self) -> None:
        """Kill all nodes with -9."""
        for node in self.nodes:
            node.kill()


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Return once a condition of another process holds, which sends no event."""
    while not await condition():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)


class Door:
    """A TCP proxy in front of a server. Shut, it drops all connections and accepts no bytes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def open(self) -> None:
        self._open = True

    async def stop(self) -> None:
        self.shut()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._open:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._writers -= pair
            far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
