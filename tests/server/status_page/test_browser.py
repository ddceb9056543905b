"""The status page in Chromium, with and without JavaScript."""

from __future__ import annotations

import os
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateways import running
from tests.support.status_page import CHROMIUM, Fleet, chromium, watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Page

    from gateway.server.gateway import Gateway

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed"),
]

SLOW_POLLS = {"poll_interval_min_seconds": 3_000.0, "poll_interval_max_seconds": 3_600.0}
HOSTILE = "<img src=x onerror=alert(1)> a secret message"
JOBS = 450
FIRST = 1_001
# Long before the next refresh, and only the failure of a test waits so long.
TIMEOUT_MS = 60_000


class Opened:
    """A page, and what it did: its requests, the errors in its console, its dialogs."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.errors.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))

    async def rows(self) -> list[str]:
        return await self.page.locator("#jobs-table tbody th").all_inner_texts()

    def check(self) -> None:
        assert self.errors == []
        assert [each for each in self.requests if not each.startswith((self.base, "data:"))] == []


@asynccontextmanager
async def opened(gateway: Gateway, query: str = "", **options: Any) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        context = await browser.new_context(**options)
        base = f"http://{gateway.admin_address}/"
        seen = Opened(await context.new_page(), base)
        await seen.page.goto(f"{base}{query}")
        yield seen
        seen.check()


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[Gateway, Fleet]]:
    """Run a gateway at which two clients watch 450 jobs, of which every tenth cannot be read."""
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet())
        fleet.message = HOSTILE
        fleet.status_of = lambda uid: 503 if uid % 10 == 0 else 200
        gateway = await stack.enter_async_context(running(fleet.url, **SLOW_POLLS))
        for number in range(2):
            uids = range(FIRST + number * JOBS // 2, FIRST + (number + 1) * JOBS // 2)
            await stack.enter_async_context(watching(gateway, uids, f"the-token-of-client-{number}"))
        yield gateway, fleet


@pytest.mark.parametrize("script", [True, False])
async def test_filter_sort_and_pages_work(script: bool) -> None:
    async with busy() as (gateway, _), opened(gateway, java_script_enabled=script) as seen:
        page = seen.page
        assert HOSTILE not in await page.content()
        # Failing jobs come first.
        assert (await page.locator("#jobs-table tbody tr").first.get_attribute("class")) == "failing"
        await page.get_by_role("link", name="Job", exact=True).click()
        assert (await seen.rows()) == [str(FIRST + each) for each in range(200)]
        assert await page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        await page.get_by_role("link", name="Next →").click()
        assert "page 2 of 3" in await page.locator("#jobs-count").inner_text()
        assert (await seen.rows())[0] == str(FIRST + 200)
        await page.get_by_label("Only failing").check()
        await page.get_by_role("button", name="Filter").click()
        assert (await seen.rows()) == [str(uid) for uid in range(1_010, FIRST + JOBS, 10)]
        client = page.locator("#jobs-table tbody td.code a").first
        name = await client.inner_text()
        await client.click()
        assert await page.get_by_role("textbox", name="Client").input_value() == name
        assert "225 of 450 jobs" in await page.locator("#jobs-count").inner_text()
        await page.get_by_role("textbox", name="Job").fill("1007")
        await page.get_by_role("textbox", name="Client").fill("")
        await page.get_by_role("button", name="Filter").click()
        assert await seen.rows() == ["1007"]


async def test_a_refresh_keeps_filter_focus_and_position() -> None:
    async with (
        busy() as (gateway, fleet),
        opened(gateway, "?sort=uid&page=2", viewport={"width": 900, "height": 500}) as seen,
    ):
        page = seen.page
        await page.get_by_role("textbox", name="Client").fill("typed")
        await page.evaluate("window.scrollTo(0, 1500)")
        before = await page.evaluate("window.scrollY")
        shown = await page.locator("#time").inner_text()
        fleet.status_of = lambda _: 200
        await page.wait_for_function("text => document.getElementById('time').innerText !== text", arg=shown)
        assert await page.evaluate("window.scrollY") == before
        assert await page.get_by_role("textbox", name="Client").input_value() == "typed"
        assert (await seen.rows())[0] == str(FIRST + 200)
        assert "Refreshes itself every 5 seconds." in await page.locator("#refreshing").inner_text()


async def test_without_a_script_the_page_loads_itself_again() -> None:
    async with busy() as (gateway, _), opened(gateway, "?sort=uid&page=2", java_script_enabled=False) as seen:
        shown = await seen.page.locator("#time").inner_text()
        async with seen.page.expect_navigation():
            pass
        assert await seen.page.locator("#time").inner_text() != shown
        assert seen.page.url.endswith("?sort=uid&page=2")
        assert (await seen.rows())[0] == str(FIRST + 200)
        assert not await seen.page.get_by_role("button", name="Pause").is_visible()


async def test_a_gateway_that_is_gone_is_said() -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running("http://127.0.0.1:1"))
        seen = await stack.enter_async_context(opened(gateway))
        await gateway.stop(0)
        state = seen.page.locator("#refreshing.bad")
        await state.wait_for()
        assert await state.inner_text() == "The gateway does not respond. These figures are old."
        # The browser reports the failed request itself.
        assert all("ERR_" in each for each in seen.errors)
        seen.errors.clear()


async def test_dark_mode_and_phones_have_their_own_style(gateway: Gateway) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    async with opened(gateway, color_scheme="light") as seen:
        light = await seen.page.evaluate(background)
    async with opened(gateway, color_scheme="dark", viewport={"width": 390, "height": 844}) as seen:
        assert await seen.page.evaluate(background) != light
        # Nothing is wider than the screen.
        assert await seen.page.evaluate("document.documentElement.scrollWidth") <= 390


async def test_every_text_has_enough_contrast() -> None:
    async with busy() as (gateway, _):
        for scheme in ("light", "dark"):
            async with opened(gateway, color_scheme=scheme) as seen:
                assert await seen.page.evaluate(LOW_CONTRAST) == []


async def test_tables_fields_and_headings_are_accessible() -> None:
    async with busy() as (gateway, _), opened(gateway) as seen:
        snapshot = await seen.page.locator("body").aria_snapshot()
    assert len(re.findall(r"heading .* \[level=1\]", snapshot)) == 1
    for each in ('textbox "Job"', 'textbox "Client"', 'combobox "Status"', 'checkbox "Only failing"', "main:"):
        assert each in snapshot
    assert snapshot.count("columnheader") == 10 + 9 + 4 + 6 + 5
    assert 'rowheader "1010"' in snapshot


async def test_the_runbook_opens_at_its_section(gateway: Gateway) -> None:
    async with opened(gateway, "runbook#jobgatewayupstreamfailing") as seen:
        target = seen.page.locator("h2:target")
        assert await target.inner_text() == "JobGatewayUpstreamFailing"
        await seen.page.get_by_role("link", name="Status").click()
        assert "All is well." in await seen.page.locator("h1").inner_text()


# The texts whose contrast is less than 4.5 (WCAG 2, level AA).
LOW_CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = numbers(color).slice(0, 3)
      .map((each) => (each /= 255) <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || ["SCRIPT", "NOSCRIPT", "OPTION"].includes(parent.tagName)) continue;
    const [one, other] = [luminance(getComputedStyle(parent).color), luminance(background(parent))].sort();
    if ((Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5) low.add(node.textContent.trim());
  }
  return [...low];
}"""
