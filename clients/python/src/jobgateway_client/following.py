"""A stream of the sync client that is resumed as often as necessary: the frame of its watches."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from jobgateway_client import calls
from jobgateway_client.errors import GatewayError
from jobgateway_client.many_rules import LoginNeeded
from jobgateway_client.stream import Stream
from jobgateway_client.waiting import Waiting

if TYPE_CHECKING:
    from jobgateway_client.connections import Connections
    from jobgateway_client.credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.work import Work

Item = TypeVar("Item")


class Following(Generic[Item]):
    """An iterator over the items of one stream after another.

    A failure is final: every later use raises it again.
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
        self._failure: Exception | None = None
        self._reading = threading.Lock()

    def close(self) -> None:
        """Leave the watch, from any thread. The job continues."""
        self._waiting.leave()
        if (stream := self._stream) is not None:
            stream.cancel()
        # Otherwise the thread that reads closes the stream.
        if self._reading.acquire(blocking=False):
            self._close_stream()
            self._reading.release()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if not self._reading.acquire(blocking=False):
            raise RuntimeError("another thread is reading this watch")
        try:
            return self._next()
        except StopIteration:
            raise
        except Exception as error:
            self._fail(error)
            raise
        except BaseException:
            # Such as Ctrl-C, which is not to be raised again.
            self._fail(calls.left_error())
            raise
        finally:
            self._reading.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # When the process ends, a thread that no longer runs may have a lock that closing needs.
        if not sys.is_finalizing():
            self._close_stream()

    def _next(self) -> Item:
        if self._failure is not None:
            raise self._failure
        while self._stream is not None or not self._work.rules.done:
            stream = self._stream or self._open()
            done = self._work.rules.done
            outcome = stream.next(calls.END_SECONDS if done else self._work.rules.silence)
            if isinstance(outcome, GatewayError):
                self._work.ended(outcome, replayed=stream.replayed)
                self._close_stream()
                if not done:
                    self._resume(stream, outcome)
                continue
            if done:
                continue  # the status comes after it: a `synced` may follow the last end
            taken = self._work.take(outcome)
            if isinstance(taken, LoginNeeded):
                if self._credential.renew(stream.token, self._waiting):
                    self._close_stream()
                    self._resume(stream, taken.error, fresh_token=True)
                    continue
                taken = self._work.without_login(taken)
            if taken is not None:
                return taken
        raise StopIteration

    def _open(self) -> Stream:
        self._waiting.check()
        token = self._credential.token(self._waiting)
        connection = self._connections.acquire()
        try:
            call, on_close = self._work.call(connection.stub, token)
        except ValueError:
            # gRPC's error for a closed channel.
            self._connections.release(connection)
            self._waiting.check()
            raise
        except BaseException:
            self._connections.release(connection)
            raise
        stream = self._stream = Stream(self._connections, connection, call, token, on_close)
        # A `close` meanwhile has not seen the stream.
        self._waiting.check()
        return stream

    def _resume(self, stream: Stream, error: GatewayError, *, fresh_token: bool = False) -> None:
        """Wait until the next stream may be opened. Raises the error if it is final."""
        self._waiting.check()
        self._deadline.failed(error)
        if not fresh_token and self._work.rules.wants_token(error):
            fresh_token = self._credential.renew(stream.token, self._waiting)
        retry = self._work.resume(error, fresh_token=fresh_token)
        if retry is None:
            raise error
        self._deadline.check(retry.wait)
        if self._on_retry is not None:
            self._on_retry(retry)
        self._waiting.sleep(retry.wait)
        if retry.new_connection:
            self._connections.replace(stream.connection)

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._close_stream()

    def _close_stream(self) -> None:
        # The attribute is missing if the constructor failed.
        stream, self._stream = getattr(self, "_stream", None), None
        if stream is not None:
            stream.close()
