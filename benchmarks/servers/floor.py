"""The floor: the gateway's server and HTTP connections, with a handler that translates nothing.

    python -m benchmarks.servers.floor UPSTREAM_URL CLIENT

CLIENT is the HTTP client:

- `client`: `httpx.AsyncClient` on the transport of httpx-aiohttp, with the event loop of asyncio
- `transport`: the transport of httpx-aiohttp, without the client
- `floor`: the gateway's connections
- `aiohttp`: aiohttp, without httpx

All but `client` use uvloop. All have the gateway's headers and timeouts.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import sys
from typing import Any

import aiohttp
import grpc
import httpx
import httpx_aiohttp
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

from gateway.clock import SystemClock
from gateway.server.defaults import CONNECT_SECONDS, OPTIONS, READ_IDLE_SECONDS
from gateway.time_limits import TimeLimits
from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.http_request import encode_request
from gateway.upstream.resolver import Resolver
from gateway.upstream.transport import DNS_SECONDS

HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "jobgateway/benchmark",
    "authorization": "Bearer token-of-the-benchmark",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
}
BODY = b'{"method_name":"succeed","params":{"length":7.5,"count":3}}'
SENT = pb.Job(uid=42, status=pb.JOB_STATUS_RUNNING).SerializeToString()
SILENCE_SECONDS = 30.0
TIMEOUT = httpx.Timeout(None, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS, read=SILENCE_SECONDS)
OF_AIOHTTP = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)


def with_client() -> Any:
    """Return a function that makes a request with `httpx.AsyncClient` on the transport of httpx-aiohttp."""
    transport = httpx_aiohttp.AiohttpTransport(client=session)
    client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT, trust_env=False)

    async def exchange(method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        return (await client.request(method, url, headers=headers, content=body)).content

    return exchange


def with_transport() -> Any:
    """Return a function that makes a request with that transport only: no cookies, redirects or hooks."""
    transport = httpx_aiohttp.AiohttpTransport(client=session)
    extensions = {"timeout": TIMEOUT.as_dict()}

    async def exchange(method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        request = httpx.Request(method, url, headers=headers, content=body, extensions=extensions)
        response = await transport.handle_async_request(request)
        try:
            return await response.aread()
        finally:
            await response.aclose()

    return exchange


def with_gateway_connections() -> Any:
    """Return a function that makes a request on the gateway's connections, without limits of memory and total time."""
    clock = SystemClock()
    time_limits = TimeLimits(clock)
    pool = ConnectionPool(
        Resolver(clock, time_limits, CONNECT_SECONDS, DNS_SECONDS),
        clock,
        time_limits,
        connect_seconds=CONNECT_SECONDS,
        idle_seconds=READ_IDLE_SECONDS,
        max_connections=1_000,
        tls=ssl.create_default_context(),
        proxy=None,
    )

    async def exchange(method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        request = encode_request(method, url, headers, body, through_proxy=False)
        connection = await pool.acquire(request.key, math.inf, new=False)
        try:
            await connection.exchange(request.head, request.body, SILENCE_SECONDS)
            pieces = []
            while piece := await connection.read():
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            pool.release(connection)

    return exchange


def without_httpx() -> Any:
    """Return a function that makes a request with aiohttp."""
    client = session()

    async def exchange(method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        async with client.request(method, url, headers=headers, data=body, timeout=OF_AIOHTTP) as response:
            return await response.read()

    return exchange


def session() -> aiohttp.ClientSession:
    """Return a session like the gateway's."""
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


EXCHANGES = {
    "client": with_client,
    "transport": with_transport,
    "floor": with_gateway_connections,
    "aiohttp": without_httpx,
}


async def main() -> None:
    """Serve until the process is killed."""
    upstream, client = sys.argv[1:]
    exchange = EXCHANGES[client]()
    typed = HEADERS | {"content-type": "application/json"}

    async def send_job(_: bytes, __: object) -> bytes:
        await exchange("POST", f"{upstream}/workspaces/1/entities/7/jobs/", typed, BODY)
        return SENT

    async def get_job(_: bytes, __: object) -> bytes:
        await exchange("GET", f"{upstream}/jobs/42/", HEADERS, None)
        return SENT

    handlers = {"SendJob": send_job, "GetJob": get_job}
    server = grpc.aio.server(options=OPTIONS)
    generic: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobgateway.v1.JobService", generic),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if sys.argv[2] == "client":
    asyncio.run(main())
else:
    uvloop.run(main())
