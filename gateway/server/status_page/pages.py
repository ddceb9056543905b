"""The responses of `/`, `/statusz` and `/runbook`."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.server.status_page.as_json import to_json
from gateway.server.status_page.query import InvalidQuery, Query
from gateway.threads import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.clock import Clock
    from gateway.server.status_page.as_html import HtmlPages
    from gateway.server.status_page.collector import Collector, Snapshot
    from gateway.server.status_page.model import Status

    # A content type and the query; the runbook has none.
    _Key = tuple[str, Query | None]

# Requests within this time share a snapshot and its pages, so that many readers cost no more than one.
SHARE_SECONDS = 1.0
# The pages that are rendered or wait for it; requests for further ones are rejected. As many are kept.
MAX_PAGES = 16
HTML, JSON = "text/html", "application/json"
HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class StatusPages:
    """Renders one page at a time, in a thread, from snapshots of the `collector`. Equal requests share a page."""

    def __init__(self, collector: Collector, clock: Clock) -> None:
        self._collector = collector
        self._clock = clock
        self._workers = WorkerPool("status", 1)
        self._snapshot: asyncio.Task[Snapshot] | None = None
        self._pages: dict[_Key, asyncio.Task[bytes]] = {}
        self._rendering: set[asyncio.Task[bytes]] = set()

    async def html(self, request: web.Request) -> web.Response:
        """Respond with the status page."""
        return await self._respond_to_query(request, HTML, lambda status, query: self._html.status(status, query))

    async def json(self, request: web.Request) -> web.Response:
        """Respond with the same contents as JSON."""
        return await self._respond_to_query(request, JSON, lambda status, _: to_json(status))

    async def runbook(self, _: web.Request) -> web.Response:
        """Respond with the page that has the action for each alert."""
        return await self._respond((HTML, None), lambda: self._workers.run(lambda: self._html.runbook))

    def close(self) -> None:
        """Stop the thread."""
        self._workers.close()

    @cached_property
    def _html(self) -> HtmlPages:
        # Only the thread uses it first. At the start, the template library would delay each process by 50 ms.
        from gateway.server.status_page.as_html import HtmlPages

        return HtmlPages()

    async def _respond_to_query(
        self, request: web.Request, content_type: str, render: Callable[[Status, Query], bytes]
    ) -> web.Response:
        try:
            query = Query.parse(request.rel_url.raw_query_string)
        except InvalidQuery as error:
            return web.Response(status=400, text=f"{error}\n", headers=HEADERS)
        return await self._respond((content_type, query), lambda: self._render(query, render))

    async def _respond(self, key: _Key, render: Callable[[], Coroutine[None, None, bytes]]) -> web.Response:
        page = self._pages.get(key)
        if page is None:
            if len(self._rendering) >= MAX_PAGES:
                headers = {**HEADERS, "retry-after": "1"}
                return web.Response(status=503, text="too many pages are being rendered; try again\n", headers=headers)
            page = self._start(key, render())
        # A reader that leaves must not cancel the page of the others.
        body = await asyncio.shield(page)
        content_type, _ = key
        policy = {"content-security-policy": self._html.policy} if content_type == HTML else {}
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers={**HEADERS, **policy})

    def _start(self, key: _Key, rendering: Coroutine[None, None, bytes]) -> asyncio.Task[bytes]:
        if len(self._pages) >= MAX_PAGES:
            del self._pages[next(iter(self._pages))]
        page = self._pages[key] = asyncio.get_running_loop().create_task(rendering)
        self._rendering.add(page)
        page.add_done_callback(self._rendered)
        return page

    def _rendered(self, page: asyncio.Task[bytes]) -> None:
        self._rendering.discard(page)
        # The next request tries again.
        if page.cancelled() or page.exception() is not None:
            self._forget()

    async def _render(self, query: Query, render: Callable[[Status, Query], bytes]) -> bytes:
        if self._snapshot is None:
            self._snapshot = asyncio.get_running_loop().create_task(self._collect())
        snapshot = await self._snapshot
        return await self._workers.run(lambda: render(snapshot.status(query), query))

    async def _collect(self) -> Snapshot:
        snapshot = await self._collector.collect()
        self._clock.call_at(self._clock.monotonic() + SHARE_SECONDS, self._forget)
        return snapshot

    def _forget(self) -> None:
        self._snapshot = None
        self._pages.clear()
