"""A line on a terminal while a command waits for one response. Rich is imported only if the wait is long."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli.output.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

# Most responses take less.
PATIENCE_SECONDS = 1.0


@contextmanager
def pending(text: str) -> Iterator[None]:
    """Show on a terminal that a command waits, and how long, until the block ends."""
    if not is_terminal(sys.stderr):
        yield
        return
    ended = threading.Event()
    shower = threading.Thread(target=_show, args=(text, time.monotonic(), ended), name="pending", daemon=True)
    shower.start()
    try:
        yield
    finally:
        ended.set()
        # The line is gone before anything else is printed.
        shower.join()


def _show(text: str, began: float, ended: threading.Event) -> None:
    if ended.wait(PATIENCE_SECONDS):
        return
    from rich.console import Console
    from rich.live import Live

    from gateway.cli.display.moving import pending_line

    console = Console(stderr=True)
    with Live(
        get_renderable=lambda: pending_line(text, time.monotonic() - began, console),
        console=console,
        refresh_per_second=10,
        transient=True,
        # Data is never progress.
        redirect_stdout=False,
    ):
        ended.wait()
