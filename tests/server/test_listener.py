"""The defect of grpc.aio that `gateway/server/listener.py` works around."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.support.frames import header_block, headers, peer

BAD_PATH: Any = b"/\xff\xfe"
# A server that has not stopped after this time does not stop.
PATIENT = 20.0


async def test_grpc_still_stops_at_a_bad_path() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    inner: Any = server._server  # type: ignore[attr-defined]  # noqa: SLF001 - as the listener asks
    try:
        async with peer(f"127.0.0.1:{port}") as hostile, asyncio.timeout(PATIENT):
            await hostile.send(headers(1, header_block(BAD_PATH), end=True))
            while inner.is_running():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail("grpc.aio continues after a path that is not UTF-8: delete gateway/server/listener.py")
    finally:
        # An ended server may not report that it has stopped, and raises its error again.
        stopping = asyncio.create_task(server.stop(None))
        await asyncio.wait([stopping], timeout=1.0)
        stopping.add_done_callback(lambda done: done.cancelled() or done.exception())
        stopping.cancel()
