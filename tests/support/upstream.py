"""A scripted HTTP server: it sends the exact bytes that a test chooses, and records the requests."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.support.raw import delivered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A connection in the hands of a scripted reply.

    `touched` is the monotonic time of its last action, in seconds. The peer notices the action later.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.touched = time.monotonic()

    async def send(self, data: bytes) -> None:
        self.touched = time.monotonic()
        self.writer.write(data)
        await self.writer.drain()

    async def delivered(self) -> None:
        """Return when the peer, which uses this event loop too, has read all that was sent."""
        await delivered(self.writer)

    def close(self) -> None:
        """Close with FIN."""
        self.touched = time.monotonic()
        self.writer.close()

    def reset(self) -> None:
        """Close with RST."""
        self.touched = time.monotonic()
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Return when the peer has closed the connection."""
        while await self.reader.read(65536):
            pass
        self.touched = time.monotonic()


def answer(status: int, body: Any = None, *, headers: dict[str, str] | None = None, raw: bytes | None = None) -> bytes:
    """Build a complete HTTP response with `body` as JSON, or with the bytes `raw`."""
    content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


JOBS = "/workspaces/1/entities/7/jobs/"
RUNNING = answer(200, {"uid": 42, "status": "running"})
DONE = answer(200, {"uid": 42, "status": "success", "result": {}})


def delivered_reply(reply: bytes) -> tuple[Callable[[Connection], Awaitable[None]], asyncio.Event]:
    """Return a reply, and an event that is set when a peer that uses this event loop has read it."""
    read = asyncio.Event()

    async def send(connection: Connection) -> None:
        await connection.send(reply)
        await connection.delivered()
        read.set()

    return send, read


async def hang(connection: Connection) -> None:
    """Never reply."""
    await connection.gone()


class ScriptedUpstream:
    """Send the replies of `script` in order, then the last one forever.

    `routes` are the scripts of one method and path, and win. A reply is bytes or a function of the connection.
    The probe of a process that starts gets `probe`, and is only counted, in `probes`.
    """

    def __init__(self) -> None:
        self.seen: list[ReceivedRequest] = []
        self.script: deque[Any] = deque()
        self.routes: dict[tuple[str, str], deque[Any]] = {}
        self.probe: Any = answer(401, {"detail": "Authentication credentials were not provided."})
        self.probes = 0
        self.arrived = asyncio.Condition()
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on(self, method: str, path: str, *replies: Any) -> None:
        self.routes[method, f"/api{path}"] = deque(replies)

    async def wait_for(self, count: int, method: str | None = None) -> None:
        """Return when `count` requests (of `method`) have arrived."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests(method)) >= count)

    def requests(self, method: str | None = None) -> list[ReceivedRequest]:
        return [each for each in self.seen if method in (None, each.method)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                seen = await _read_request(reader)
                if seen is None:
                    return
                async with self.arrived:
                    if _is_probe(seen):
                        self.probes += 1
                    else:
                        self.seen.append(seen)
                    self.arrived.notify_all()
                if not await self.respond(seen, Connection(reader, writer)):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        except asyncio.CancelledError:
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        """Reply to a request. Return True if the connection stays usable."""
        reply = self._reply(seen)
        if isinstance(reply, bytes):
            await connection.send(reply)
            return True
        await reply(connection)
        return False

    def _reply(self, seen: ReceivedRequest) -> Any:
        if _is_probe(seen):
            return self.probe
        replies = self.routes.get((seen.method, seen.path), self.script)
        if not replies:
            return answer(500, {"detail": f"the test has no reply for {seen.method} {seen.path}"})
        return replies.popleft() if len(replies) > 1 else replies[0]


def _is_probe(seen: ReceivedRequest) -> bool:
    return seen.path == "/api/jobs/0/" and "authorization" not in seen.headers


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head.decode("latin-1").split("\r\n")
    if request.count(" ") < 2:
        # It does not speak HTTP/1.
        return None
    method, path, _ = request.split(" ", 2)
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return ReceivedRequest(method, path, headers, body)
