"""A stream of the asyncio client that is resumed as often as necessary: the frame of its watches."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from jobgateway_client import calls
from jobgateway_client.aio_stream import Stream
from jobgateway_client.aio_waiting import Waiting
from jobgateway_client.errors import GatewayError
from jobgateway_client.many_rules import LoginNeeded

if TYPE_CHECKING:
    from jobgateway_client.aio_connections import Connection, Connections
    from jobgateway_client.aio_credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.work import Work

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Broken:
    """A stream that has ended: its error, token and connection, and whether there is a fresh token already."""

    error: GatewayError
    token: str | None
    connection: Connection
    fresh_token: bool


@dataclass(frozen=True)
class _Pause:
    """The wait before the next stream: its end as a monotonic time, and the connection to replace, if any."""

    until: float
    replace: Connection | None


class AsyncFollowing(Generic[Item]):
    """An iterator over the items of one stream after another.

    A failure is final: every later use raises it again. A task that is cancelled while it waits for an item changes
    nothing: the next use continues. Therefore, each `await` below can be repeated.
    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        work: Work[Item],
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
    ) -> None:
        self._connections = connections
        self._credential = credential
        self._waiting = Waiting(connections.closing, deadline)
        self._deadline = deadline
        self._work = work
        self._on_retry = on_retry
        self._stream: Stream | None = None
        self._login_needed: LoginNeeded | None = None
        self._broken: _Broken | None = None
        self._pause: _Pause | None = None
        self._failure: BaseException | None = None
        self._is_reading = False

    async def close(self) -> None:
        """Leave the watch, from any task. The job continues."""
        self._waiting.leave()
        self._close_stream()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._is_reading:
            raise RuntimeError("another task is reading this watch")
        self._is_reading = True
        try:
            return await self._next()
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except Exception as error:
            self._fail(error)
            raise
        except BaseException:
            # Such as Ctrl-C, which is not to be raised again.
            self._fail(calls.left_error())
            raise
        finally:
            self._is_reading = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        # The attribute is missing if the constructor failed. The cycle collector runs in any thread.
        if (stream := getattr(self, "_stream", None)) is not None:
            stream.abandon()

    async def _next(self) -> Item:
        if self._failure is not None:
            raise self._failure
        while self._stream is not None or not self._work.rules.done:
            await self._resume()
            stream = self._stream or await self._open()
            if self._login_needed is not None:
                taken = await self._logged_in(stream, self._login_needed)
            else:
                taken = await self._read(stream)
            if taken is not None:
                return taken
        raise StopAsyncIteration

    async def _read(self, stream: Stream) -> Item | None:
        """Return the item for the next event, or None if there is none."""
        done = self._work.rules.done
        outcome = await stream.next(calls.END_SECONDS if done else self._work.rules.silence)
        if isinstance(outcome, GatewayError):
            self._work.ended(outcome, replayed=stream.replayed)
            self._close_stream()
            if not done:
                self._broken = _Broken(outcome, stream.token, stream.connection, fresh_token=False)
            return None
        if done:
            return None  # the status comes after it: a `synced` may follow the last end
        taken = self._work.take(outcome)
        if isinstance(taken, LoginNeeded):
            self._login_needed = taken
            return None
        return taken

    async def _logged_in(self, stream: Stream, needed: LoginNeeded) -> Item | None:
        """Get a token for another stream, or return the item for the job that needs one."""
        renewed = await self._credential.renew(stream.token, self._waiting)
        self._login_needed = None
        if not renewed:
            return self._work.without_login(needed)
        self._close_stream()
        self._broken = _Broken(needed.error, stream.token, stream.connection, fresh_token=True)
        return None

    async def _open(self) -> Stream:
        self._waiting.check()
        token = await self._credential.token(self._waiting)
        connection = self._connections.acquire()
        try:
            call, on_close = self._work.call(connection.stub, token)
        except BaseException:
            self._connections.release(connection)
            raise
        self._stream = Stream(self._connections, connection, call, token, on_close)
        return self._stream

    async def _resume(self) -> None:
        """Wait until the next stream may be opened. Raises the error of the last one if it is final."""
        if self._broken is not None:
            self._pause = await self._decide(self._broken)
            self._broken = None
        if self._pause is not None:
            await self._waiting.sleep(max(0.0, self._pause.until - time.monotonic()))
            if self._pause.replace is not None:
                self._connections.replace(self._pause.replace)
            self._pause = None

    async def _decide(self, broken: _Broken) -> _Pause:
        self._waiting.check()
        error = broken.error
        self._deadline.failed(error)
        fresh_token = broken.fresh_token
        if not fresh_token and self._work.rules.wants_token(error):
            fresh_token = await self._credential.renew(broken.token, self._waiting)
        retry = self._work.resume(error, fresh_token=fresh_token)
        if retry is None:
            raise error
        self._deadline.check(retry.wait)
        if self._on_retry is not None:
            self._on_retry(retry)
        return _Pause(time.monotonic() + retry.wait, broken.connection if retry.new_connection else None)

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._close_stream()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
