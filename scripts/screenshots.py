"""Write the pictures of the status page into docs/images: a gateway that is idle, busy, and without its upstream."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "generated")]

from tests.support.gateways import running
from tests.support.status_page import Fleet, chromium, watching

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from gateway.server.gateway import Gateway

FOLDER = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 1300
# Few enough that a picture takes less than 150 kB.
COLORS = 128
JOBS = 5_000
# Ports and host names are different each time.
PLAIN = """([names]) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());)
    for (const [name, plain] of names) node.textContent = node.textContent.replaceAll(name, plain);
}"""


async def _shoot(
    browser: Browser, gateway: Gateway, upstream: str, name: str, *, dark: bool = False, phone: bool = False
) -> None:
    viewport = {"width": 390, "height": 844} if phone else {"width": WIDTH, "height": HEIGHT}
    context = await browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(f"http://{gateway.admin_address}/")
    host = (await page.locator(".brand .muted").inner_text()).partition(" ")[0]
    names = [
        (host, "jobgateway-0"),
        (upstream, "https://cloud.viktor.ai/api"),
        (gateway.address, "127.0.0.1:50051"),
        (gateway.admin_address, "127.0.0.1:9464"),
    ]
    await page.evaluate(PLAIN, [names])
    shot = Image.open(io.BytesIO(await page.screenshot()))
    shot.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)
    await context.close()


async def main() -> None:
    """Write all pictures."""
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        fleet = await stack.enter_async_context(Fleet())
        intervals = {"poll_interval_min_seconds": 1.0, "poll_interval_max_seconds": 5.0}
        gateway = await stack.enter_async_context(running(fleet.url, **intervals))
        await _shoot(browser, gateway, fleet.url, "status-idle")
        first = 4_200_001
        for client in range(4):
            uids = range(first + client * JOBS // 4, first + (client + 1) * JOBS // 4)
            await stack.enter_async_context(watching(gateway, uids, f"the-token-of-client-{client}"))
        await asyncio.sleep(3)
        await _shoot(browser, gateway, fleet.url, "status-busy")
        await _shoot(browser, gateway, fleet.url, "status-busy-dark", dark=True)
        await _shoot(browser, gateway, fleet.url, "status-phone", phone=True)
        fleet.status_of = lambda _: 503
        await asyncio.sleep(20)
        await _shoot(browser, gateway, fleet.url, "status-failing")


if __name__ == "__main__":
    asyncio.run(main())
