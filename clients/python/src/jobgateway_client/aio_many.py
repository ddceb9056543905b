"""The asyncio watch of many jobs on one stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.aio_following import AsyncFollowing
from jobgateway_client.many_jobs import Item, ManyJobsState

if TYPE_CHECKING:
    from jobgateway_client import calls
    from jobgateway_client.aio_connections import Connections
    from jobgateway_client.aio_credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.many_jobs import ManyJobs
    from jobgateway_client.many_rules import ManyRules


class AsyncWatchAll(ManyJobsState, AsyncFollowing[Item]):
    """The events of many jobs until each has ended, on one stream that is resumed as often as necessary.

    It is used as a `WatchAll`, with `async with` and `async for`. One task reads at a time, and any task may call
    `close`. If the task that reads is cancelled, as by `asyncio.wait_for`, the next use continues.

    Raises (while iterating):
        GatewayError: The stream failed permanently, and with it all watches. Each later use raises it again.

    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        jobs: ManyJobs,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
    ) -> None:
        super().__init__(connections, credential, jobs, deadline, on_retry)
        self._jobs = jobs


class Requests:
    """The requests of one stream, which end when no job is pending."""

    def __init__(self, rules: ManyRules) -> None:
        self._rules = rules
        self._changed = asyncio.Event()
        self._closed = False

    async def stream(self) -> AsyncIterator[pb.WatchJobsRequest]:
        """Yield each request when it is due."""
        while self._rules.pending and not self._closed:
            now = time.monotonic()
            if request := self._rules.next_request(now):
                yield request
                continue
            self._changed.clear()
            due = self._rules.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - now):
                    await self._changed.wait()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change the rules while the stream is open."""
        yield
        self._changed.set()

    def close(self) -> None:
        """End the requests."""
        self._closed = True
        self._changed.set()
