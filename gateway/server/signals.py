"""The signals that stop a server. A thread waits for them, so that an event loop that hangs delays no exit."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet


def stopping() -> AbstractSet[signal.Signals]:
    """Return the signals that stop a server.

    SIGHUP is one of them unless the process was started with it ignored, as by `nohup`.
    """
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignores_hangup else {signal.SIGHUP})


def block() -> None:
    """Block these signals, so that they wait for `watch`; call it before there are other threads."""
    # Without a handler they would end the process without a line, or be ignored by the first one of a container.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping())


def watch(first: Callable[[], None], later: Callable[[], None]) -> None:
    """Call `first` for the first of these signals, and `later` for each one after it, in a thread of their own."""
    block()
    numbers = stopping()

    def wait() -> None:
        signal.sigwait(numbers)
        first()
        while True:
            signal.sigwait(numbers)
            later()

    threading.Thread(target=wait, name="signals", daemon=True).start()
