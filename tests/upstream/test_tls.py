"""HTTP/1.1 over TLS: session tickets before the first response, and connections that close slowly."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socketserver
import ssl
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

from gateway.upstream import connection_pool
from gateway.upstream.connection_pool import _Handshake
from tests.support.raw import tcp_server
from tests.support.transports import PatientTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

TEST_SECONDS = 30.0


class _Server(socketserver.ThreadingTCPServer):
    """Serves one request per connection in a thread, so that session tickets arrive at any time."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.tls = tls

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore how connections end."""


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def setup(self) -> None:
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        self.rfile.read()


@contextmanager
def serving() -> Iterator[tuple[str, ssl.SSLContext]]:
    """Run a server, and return its URL and a client that trusts it."""
    authority, client = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(client)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with _Server(context) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"https://localhost:{server.server_address[1]}/", client
        finally:
            server.shutdown()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_session_tickets_are_no_answer(loop: Any) -> None:
    """They may wait to be read when the first request is made, but no byte of HTTP does."""

    async def scenario() -> None:
        async with asyncio.timeout(TEST_SECONDS):
            for _ in range(5):
                exchanges = [transport.request("GET", url, {}) for _ in range(10)]
                assert {each.status for each in await asyncio.gather(*exchanges)} == {200}
            # The connections still wait for the end of TLS.
            await transport.aclose()

    with serving() as (url, tls), asyncio.Runner(loop_factory=loop) as runner:
        transport = PatientTransport(tls=tls)
        runner.run(scenario())


def test_a_cancelled_handshake_is_freed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop keeps it until the limit of handshakes, which is a minute by default."""
    handshakes: weakref.WeakSet[_Handshake] = weakref.WeakSet()

    class Counted(_Handshake):
        def __init__(self, make: Any) -> None:
            super().__init__(make)
            handshakes.add(self)

    monkeypatch.setattr(connection_pool, "_Handshake", Counted)

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        transport = PatientTransport(connect=0.5)
        async with tcp_server(swallow) as port, asyncio.timeout(TEST_SECONDS):
            for turns in itertools.cycle(range(20)):
                exchange = asyncio.create_task(transport.request("GET", f"https://127.0.0.1:{port}/", {}))
                for _ in range(turns):
                    await asyncio.sleep(0)
                exchange.cancel()
                await asyncio.gather(exchange, return_exceptions=True)
                if handshakes:
                    gc.collect()
                if handshakes:
                    break
            while handshakes:
                await asyncio.sleep(0.05)
                gc.collect()
            await transport.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
