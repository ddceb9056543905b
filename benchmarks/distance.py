"""A TCP proxy that makes the upstream look far away.

    python -m benchmarks.distance PORT ROUND_TRIP_SECONDS

It prints its port, and forwards to PORT on this machine. Bytes take half a round trip in each direction. The first
bytes of a connection take one round trip more, because the connection to this proxy is made without a delay.
"""

from __future__ import annotations

import asyncio
import sys


class Direction:
    """Forwards the bytes of one direction, each after the same delay."""

    def __init__(self, delay: float, until: float) -> None:
        self._delay = delay
        self._until = until

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until the end."""
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            loop.call_at(max(loop.time(), self._until) + self._delay, writer.write, data)
        loop.call_at(max(loop.time(), self._until) + self._delay, writer.close)


async def main() -> None:
    """Serve until the process is killed."""
    port, round_trip = int(sys.argv[1]), float(sys.argv[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = asyncio.get_running_loop().time() + round_trip
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            Direction(round_trip / 2, connected).forward(reader, upstream_writer),
            Direction(round_trip / 2, 0.0).forward(upstream_reader, writer),
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
