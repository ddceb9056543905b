"""The responses of `/`, `/statusz` and `/runbook`."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.server.status_page.as_json import to_json
from gateway.server.status_page.query import InvalidQuery, Query
from gateway.threads import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.server.status_page.as_html import HtmlPages
    from gateway.server.status_page.collector import Collector, Snapshot
    from gateway.server.status_page.model import Status

# Requests within this time share a snapshot, so that many readers cost the event loop no more than one.
SHARE_SECONDS = 1.0
# Requests that wait for the one that is rendered. More are rejected.
MAX_WAITING = 16
HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class StatusPages:
    """Renders one page at a time, in a thread, from snapshots of the `collector`."""

    def __init__(self, collector: Collector, clock: Clock) -> None:
        self._collector = collector
        self._clock = clock
        self._workers = WorkerPool("status", 1)
        self._snapshot: asyncio.Task[Snapshot] | None = None
        self._waiting = 0

    async def html(self, request: web.Request) -> web.Response:
        """Respond with the status page."""
        return await self._respond(request, "text/html", lambda status, query: self._html.status(status, query))

    async def json(self, request: web.Request) -> web.Response:
        """Respond with the same contents as JSON."""
        return await self._respond(request, "application/json", lambda status, _: to_json(status))

    async def runbook(self, _: web.Request) -> web.Response:
        """Respond with the page that has the action for each alert."""
        body = await self._workers.run(lambda: self._html.runbook())
        return self._response(body, "text/html")

    def close(self) -> None:
        """Stop the thread."""
        self._workers.close()

    @cached_property
    def _html(self) -> HtmlPages:
        # Only the thread uses it first. At the start, the template library would delay each process by 50 ms.
        from gateway.server.status_page.as_html import HtmlPages

        return HtmlPages()

    async def _respond(
        self, request: web.Request, content_type: str, render: Callable[[Status, Query], bytes]
    ) -> web.Response:
        try:
            query = Query.parse(request.rel_url.raw_query_string)
        except InvalidQuery as error:
            return web.Response(status=400, text=f"{error}\n", headers=HEADERS)
        if self._waiting >= MAX_WAITING:
            return web.Response(status=503, text="too many readers; try again\n", headers={"retry-after": "1"})
        self._waiting += 1
        try:
            snapshot = await asyncio.shield(self._latest())
            body = await self._workers.run(partial(_render, snapshot, query, render))
        finally:
            self._waiting -= 1
        return self._response(body, content_type)

    def _response(self, body: bytes, content_type: str) -> web.Response:
        policy = {"content-security-policy": self._html.policy} if content_type == "text/html" else {}
        headers = {**HEADERS, **policy}
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    def _latest(self) -> asyncio.Task[Snapshot]:
        if self._snapshot is None:
            self._snapshot = asyncio.get_running_loop().create_task(self._collector.collect())
            self._snapshot.add_done_callback(self._collected)
        return self._snapshot

    def _collected(self, task: asyncio.Task[Snapshot]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget()
        else:
            self._clock.call_at(self._clock.monotonic() + SHARE_SECONDS, self._forget)

    def _forget(self) -> None:
        self._snapshot = None


def _render(snapshot: Snapshot, query: Query, render: Callable[[Status, Query], bytes]) -> bytes:
    return render(snapshot.status(query), query)
