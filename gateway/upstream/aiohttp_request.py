"""A request that stops sending its body once the response has started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_reqrep import ConnectionKey

from gateway.upstream.aiohttp_protocol import UnsolicitedResponse, UpstreamProtocol

if TYPE_CHECKING:
    from multidict import CIMultiDict

WRITE_BYTES = 64 << 10


class Request(aiohttp.ClientRequest):
    """A request on a connection of its credential, whose body is not sent further once the response has started."""

    @property
    def connection_key(self) -> ConnectionKey:
        """The key in the pool (overrides aiohttp), which includes the credential.

        A late response to one credential's request can then never be taken for the response to another's.
        """
        url = self.url
        # The field for the hash of a proxy's headers has no other use.
        return ConnectionKey(
            url.raw_host or "",
            url.port,
            url.scheme == "https",
            self._ssl,
            self.proxy,
            self.proxy_auth,
            hash(self.headers.get(hdrs.AUTHORIZATION)),
            self.server_hostname,
        )

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Send the headers, and start to write the body (overrides aiohttp)."""
        protocol = conn.protocol
        if isinstance(protocol, UpstreamProtocol):
            if isinstance(unsolicited := protocol.exception(), UnsolicitedResponse):
                raise unsolicited
            # A body is written by a task, which starts in a later iteration of the loop.
            protocol.request_started = protocol.request_sent = not self._body
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: aiohttp.connector.Connection, content_length: int | None = None
    ) -> None:
        """Write the body (overrides aiohttp)."""
        protocol = conn.protocol
        if isinstance(protocol, UpstreamProtocol):
            if isinstance(protocol.exception(), UnsolicitedResponse):
                return
            protocol.request_started = True
            writer = _Writer(writer, protocol)
        await super().write_bytes(writer, conn, content_length)
        if isinstance(protocol, UpstreamProtocol) and not protocol.response_started:
            protocol.request_sent = True


class _Writer(AbstractStreamWriter):
    """Writes until the response starts."""

    def __init__(self, writer: AbstractStreamWriter, protocol: UpstreamProtocol) -> None:
        self._writer = writer
        self._protocol = protocol
        self._started = False

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        # If the upstream has closed the connection, a write fails, and a response that has arrived is lost. So read
        # arrived bytes first, and write little at a time.
        for start in range(0, len(chunk), WRITE_BYTES):
            if self._started and not await self._protocol.awaits_response():
                return
            self._started = True
            await self._writer.write(chunk[start : start + WRITE_BYTES])

    async def write_eof(self, chunk: bytes = b"") -> None:
        if not self._protocol.response_started:
            await self._writer.write_eof(chunk)

    async def drain(self) -> None:
        await self._writer.drain()

    def send_headers(self) -> None:
        self._writer.send_headers()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        await self._writer.write_headers(status_line, headers)

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        self._writer.enable_compression(encoding, strategy)

    def enable_chunking(self) -> None:
        self._writer.enable_chunking()
