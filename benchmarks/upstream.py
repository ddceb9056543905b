"""The upstream of the benchmarks: answers at once, with as little work as can be.

    python -m benchmarks.upstream [RESULT_BYTES]

Prints its port. A job that is asked for changes with each poll where its uid is odd, and stays as it is where it is
even; with RESULT_BYTES it is done at once. `/stats` gives the number of polls. A message holds the moment of its answer
(`time.monotonic`, which all processes of a machine share).
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
    """One connection; requests come one after another, each in one piece or in head and body."""

    result: bytes | None = None
    polls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, rest = self._buffer[:end].lower(), self._buffer[end + 4 :]
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head.split(b" ", 2)[1])

    def _answer(self, path: bytes) -> None:
        if b"/entities/" in path:
            self._send(201, b'{"uid":42,"url":"/api/jobs/42/"}')
        elif path == b"/stats":
            self._send(200, b"%d" % Upstream.polls)
        else:
            Upstream.polls += 1
            uid = int(path.rstrip(b"/").rpartition(b"/")[2])
            if self.result is not None:
                self._send(200, b'{"uid":%d,"status":"success","result":%b}' % (uid, self.result))
            else:
                self._send(200, JOB % (uid, b"%.6f" % time.monotonic() if uid % 2 else b"working"))

    def _send(self, status: int, body: bytes) -> None:
        self._transport.write(HEAD % (status, len(body)) + body)


async def main() -> None:
    """Serves until it is killed."""
    if len(sys.argv) > 1:
        Upstream.result = b'{"points":"%b"}' % (b"0123456789abcdef" * (int(sys.argv[1]) // 16))
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
