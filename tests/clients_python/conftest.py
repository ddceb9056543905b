"""A scripted gateway, and the two clients as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest
from jobgateway_client import AsyncClient, Client

from tests.support.client_gateway import ScriptedGateway

LONGEST_SECONDS = 30


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    servicer = ScriptedGateway()
    servicer.target = f"127.0.0.1:{servicer.server.add_insecure_port('127.0.0.1:0')}"
    await servicer.server.start()
    yield servicer
    await servicer.server.stop(None)


class Both:
    """One of the two clients, used by the same coroutine."""

    def __init__(self, kind: type[Client | AsyncClient]) -> None:
        self._kind: Any = kind

    async def use(self, target: str, action: Callable[[Any], Any], **options: Any) -> Any:
        """Return the result of `action`: of a method, or the job and the result of a watch."""
        if self._kind is AsyncClient:
            async with AsyncClient(target, **options) as client:
                found = action(client)
                return await (found.finish() if hasattr(found, "finish") else found)

        def run() -> Any:
            with Client(target, **options) as client:
                found = action(client)
                return found.finish() if hasattr(found, "finish") else found

        return await asyncio.to_thread(run)


@pytest.fixture(params=[Client, AsyncClient])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


class _InThreads:
    """The sync client, with the methods of the asyncio client. They run in threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("watch", "run", "watch_all"):
            return lambda *args, **options: _WatchInThreads(method(*args, **options))
        return lambda *args, **options: asyncio.to_thread(method, *args, **options)


class _WatchInThreads:
    def __init__(self, watch: Any) -> None:
        self._watch = watch

    def __aiter__(self) -> _WatchInThreads:
        return self

    async def __anext__(self) -> Any:
        item = await asyncio.to_thread(next, self._watch, None)
        if item is None:
            raise StopAsyncIteration
        return item

    def __getattr__(self, name: str) -> Any:
        if name in ("close", "finish"):
            return lambda: asyncio.to_thread(getattr(self._watch, name))
        return getattr(self._watch, name)


Connect: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def _connect(target: str, **options: Any) -> AsyncIterator[Any]:
    async with asyncio.timeout(LONGEST_SECONDS), AsyncClient(target, **options) as client:
        yield client


@asynccontextmanager
async def _connect_threads(target: str, **options: Any) -> AsyncIterator[Any]:
    async with asyncio.timeout(LONGEST_SECONDS):
        with Client(target, **options) as client:
            yield _InThreads(client)


@pytest.fixture(params=[_connect_threads, _connect])
def connect(request: pytest.FixtureRequest) -> Any:
    """Return a function that connects either client, with the methods of the asyncio client."""
    return request.param
