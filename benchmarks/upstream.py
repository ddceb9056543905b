"""The upstream of the benchmarks, which responds immediately and with as little work as possible.

    python -m benchmarks.upstream [RESULT_BYTES]

It prints its port. A job with an odd uid changes with each poll: its message is the time of the response
(`time.monotonic`, which all processes of a machine share). A job with an even uid never changes. With RESULT_BYTES, it
is done and has a result of that size. `/stats` returns the number of polls.
"""

from __future__ import annotations

import asyncio
import sys
import time

HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
JOB = (
    b'{"uid":%d,"kind":"result","status":"running","message":'
    b'{"message_type":"progress","message":"%b","percentage":50,"timestamp_epoch":1700000000.5},"log_download_url":null}'
)


class Upstream(asyncio.Protocol):
    """A connection. Requests arrive one after the other, without pipelining."""

    result: bytes | None = None
    polls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Respond to each complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, rest = self._buffer[:end].lower(), self._buffer[end + 4 :]
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._respond(head.split(b" ", 2)[1])

    def _respond(self, path: bytes) -> None:
        if b"/entities/" in path:
            self._send(201, b'{"uid":42,"url":"/api/jobs/42/"}')
        elif path == b"/stats":
            self._send(200, b"%d" % Upstream.polls)
        else:
            Upstream.polls += 1
            uid = int(path.rstrip(b"/").rpartition(b"/")[2])
            if self.result is not None and uid % 2 == 0:
                self._send(200, b'{"uid":%d,"status":"success","result":%b}' % (uid, self.result))
            else:
                self._send(200, JOB % (uid, b"%.6f" % time.monotonic() if uid % 2 else b"working"))

    def _send(self, status: int, body: bytes) -> None:
        self._transport.write(HEAD % (status, len(body)) + body)


async def main() -> None:
    """Serve until the process is killed."""
    if len(sys.argv) > 1:
        Upstream.result = b'{"points":"%b"}' % (b"0123456789abcdef" * (int(sys.argv[1]) // 16))
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
