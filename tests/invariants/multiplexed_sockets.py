"""A run of streams of many jobs over real sockets, with the failures of `SocketRun`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.invariants.history import History, Watch
from tests.invariants.multiplexed import Inbox, Stream
from tests.invariants.sockets import SocketRun
from tests.support.gateways import Failure
from tests.support.tasks import has_ended


class Entry(NamedTuple):
    """A stream that has not ended. Its requests are written by a task of its own."""

    inbox: Inbox
    requests: asyncio.Queue[pb.WatchJobsRequest | None]
    task: asyncio.Task[None]


class MultiplexedSocketRun(SocketRun):
    """One run from a seed. `streams` and `history` have its records."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.streams: list[Stream] = []
        self._entries: list[Entry] = []

    @property
    def history(self) -> History:
        # A stream may leave a job and watch it again, and its loops have its name.
        return replace(super().history, loops_share_names=True)

    def _open(self, number: int, watch: Watch, token: str, held: bytes) -> None:
        del number
        heartbeat, watch.heartbeat = watch.heartbeat, float("inf")
        entry = self._entry_for(watch, heartbeat)
        entry.inbox.start(watch, held)
        chunks = self.dice.random() < 0.5
        request = pb.WatchJobRequest(
            uid=watch.uid,
            content_format=pb.CONTENT_FORMAT_JSON_CHUNKS if chunks else pb.CONTENT_FORMAT_JSON,
            resume_token=token,
        )
        request.heartbeat_interval.seconds = int(heartbeat)
        entry.requests.put_nowait(pb.WatchJobsRequest(watch=request))
        if self.dice.random() < 0.1:
            refused = pb.WatchJobRequest(uid=-1 - len(entry.inbox.stream.expected))
            entry.inbox.stream.expected[refused.uid, "REQUEST_INVALID"] += 1
            entry.inbox.stream.requests += 1
            entry.requests.put_nowait(pb.WatchJobsRequest(watch=refused))

    def _entry_for(self, watch: Watch, heartbeat: float) -> Entry:
        self._entries = [entry for entry in self._entries if not has_ended(entry.task)]
        fitting = [
            entry
            for entry in self._entries
            if entry.inbox.stream.credential == watch.credential and watch.uid not in entry.inbox.used
        ]
        if fitting and self.dice.random() < 0.9:
            return self.dice.choice(fitting)
        name = f"stream {len(self.streams)}"
        stream = Stream(name, watch.credential, time.monotonic(), heartbeat)
        self.streams.append(stream)
        inbox, requests = Inbox(stream), asyncio.Queue[pb.WatchJobsRequest | None]()
        entry = Entry(inbox, requests, asyncio.create_task(self._serve(inbox, requests)))
        self._entries.append(entry)
        return entry

    async def _serve(self, inbox: Inbox, requests: asyncio.Queue[pb.WatchJobsRequest | None]) -> None:
        stream = inbox.stream

        async def requested() -> Any:
            while (request := await requests.get()) is not None:
                yield request

        metadata = (("authorization", f"Bearer {stream.credential}"), ("x-request-id", stream.name))
        call: Any = rpc.JobServiceStub(self._channel).WatchJobs(requested(), metadata=metadata)
        status = ""
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                inbox.receive(event, time.monotonic())
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = Failure(error).reason
        except asyncio.CancelledError:
            call.cancel()
            status = "LEFT"
        finally:
            inbox.end(status or "DEFECT", time.monotonic())
            # grpc does not end the task that reads the requests.
            requests.put_nowait(None)

    def _leave(self) -> None:
        if entries := [entry for entry in self._entries if not entry.task.done() and entry.inbox.open]:
            entry = self.dice.choice(entries)
            if self.dice.random() < 0.2:
                entry.task.cancel()
                return
            uid = self.dice.choice(sorted(entry.inbox.open))
            entry.inbox.leave(uid).ended = time.monotonic()
            entry.requests.put_nowait(pb.WatchJobsRequest(unwatch=uid))

    async def _all_ended(self) -> None:
        for entry in self._entries:
            entry.requests.put_nowait(None)
        await asyncio.wait_for(asyncio.gather(*(entry.task for entry in self._entries)), 60)

    async def _stop_gateway(self, grace: float) -> None:
        await self._gateway.stop(grace)
        await asyncio.gather(*(entry.task for entry in self._entries), return_exceptions=True)
        await self._channel.close()
