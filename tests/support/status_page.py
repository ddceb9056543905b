"""Thousands of jobs that are watched, and a browser that looks at the status page."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import grpc
from aiohttp import web
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from playwright.async_api import async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from playwright.async_api import Browser

    from gateway.server.gateway import Gateway

CHROMIUM = shutil.which("chromium")


class Fleet:
    """An upstream with any number of running jobs.

    Attributes:
        message: The progress message of each job.
        status_of: Returns the HTTP status of the reads of a job.
    """

    def __init__(self) -> None:
        self.message = "working"
        self.status_of: Callable[[int], int] = lambda _: 200
        self.url = ""
        application = web.Application()
        application.router.add_get("/jobs/{uid}/", self._job)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _job(self, request: web.Request) -> web.Response:
        uid = int(request.match_info["uid"])
        status = self.status_of(uid)
        if status != 200:
            return web.json_response({"detail": "no"}, status=status)
        # Some jobs report no percentage.
        percentage = None if uid % 9 == 0 else uid * 37 % 101
        message = {"message": self.message, "percentage": percentage}
        return web.json_response({"uid": uid, "status": "running", "message": message})


@asynccontextmanager
async def watching(gateway: Gateway, uids: Iterable[int], token: str) -> AsyncIterator[None]:
    """Watch jobs on one stream, and enter the context when each of them was read, or has failed."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        # The stubs do not know the asynchronous stream.
        call: Any = rpc.JobServiceStub(channel).WatchJobs(metadata=(("authorization", f"Bearer {token}"),))
        wanted = set(uids)
        seen = asyncio.Event()

        async def read() -> None:
            missing = set(wanted)
            async for event in call:
                missing.discard(event.uid)
                if not missing:
                    seen.set()

        reading = asyncio.create_task(read())
        for uid in wanted:
            await call.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=uid)))
        await seen.wait()
        try:
            yield
        finally:
            reading.cancel()
            call.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the Chromium of this machine, without a window."""
    # As root, as in containers, Chromium has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()
