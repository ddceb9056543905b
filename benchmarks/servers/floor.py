"""The floor: the gateway's own server and HTTP client, with a handler that translates nothing.

    python -m benchmarks.servers.floor UPSTREAM_URL HOW

HOW says which parts it is made of: `client` (httpx's own client on the aiohttp transport, asyncio's event loop),
`transport` (the transport without the client around it), `uvloop` (that on uvloop), `aiohttp` (no httpx at all, on
uvloop).
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import httpx
import uvloop
from httpx_aiohttp import AiohttpTransport
from jobgateway.v1 import job_service_pb2 as pb

from gateway.server import OPTIONS

if TYPE_CHECKING:
    pass

HEADERS = {"authorization": "Bearer token-of-the-benchmark", "content-type": "application/json"}
BODY = b'{"method_name":"succeed","params":{"length":7.5,"count":3}}'
SENT = pb.Job(uid=42, status=pb.JOB_STATUS_RUNNING).SerializeToString()

Exchange = "Callable[[str, str, bytes | None], Awaitable[bytes]]"


def with_client() -> Any:
    """`httpx.AsyncClient` on the aiohttp transport."""
    client = httpx.AsyncClient(transport=AiohttpTransport(client=session), trust_env=False)

    async def exchange(method: str, url: str, body: bytes | None) -> bytes:
        return (await client.request(method, url, headers=HEADERS, content=body)).content

    return exchange


def with_transport() -> Any:
    """The transport without the client around it: neither cookies nor redirects nor hooks."""
    transport = AiohttpTransport(client=session, verify=ssl.create_default_context())

    async def exchange(method: str, url: str, body: bytes | None) -> bytes:
        response = await transport.handle_async_request(httpx.Request(method, url, headers=HEADERS, content=body))
        try:
            return await response.aread()
        finally:
            await response.aclose()

    return exchange


def without_httpx() -> Any:
    """Aiohttp itself."""
    client = session()

    async def exchange(method: str, url: str, body: bytes | None) -> bytes:
        async with client.request(method, url, headers=HEADERS, data=body) as response:
            return await response.read()

    return exchange


def session() -> aiohttp.ClientSession:
    """A session as the gateway's is."""
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


async def main() -> None:
    """Serves until it is killed."""
    upstream, how = sys.argv[1:]
    exchange = {"client": with_client, "aiohttp": without_httpx}.get(how, with_transport)()

    async def send_job(_: bytes, __: object) -> bytes:
        await exchange("POST", f"{upstream}/workspaces/1/entities/7/jobs/", BODY)
        return SENT

    async def get_job(_: bytes, __: object) -> bytes:
        await exchange("GET", f"{upstream}/jobs/42/", None)
        return SENT

    handlers = {"SendJob": send_job, "GetJob": get_job}
    server = grpc.aio.server(options=OPTIONS)
    generic: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobgateway.v1.JobService", generic),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if sys.argv[2] in ("uvloop", "aiohttp"):
    uvloop.run(main())
else:
    asyncio.run(main())
