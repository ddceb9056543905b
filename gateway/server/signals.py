"""The signals that stop a server. A thread waits for them, so that a blocked event loop does not delay the exit."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet


def stop_signals() -> AbstractSet[signal.Signals]:
    """Return the signals that stop a server.

    They include SIGHUP, unless the process was started with it ignored, as `nohup` does.
    """
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignores_hangup else {signal.SIGHUP})


def block() -> None:
    """Block these signals until `watch` waits for them. Call it before other threads start."""
    # Without a handler, they end the process without a log line, and the first process of a container ignores them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())


def watch(first: Callable[[int], None], later: Callable[[int], None]) -> None:
    """Call `first` with the first of these signals, and `later` with each one after it, in a new thread."""
    block()
    numbers = stop_signals()

    def wait() -> None:
        first(signal.sigwait(numbers))
        while True:
            later(signal.sigwait(numbers))

    threading.Thread(target=wait, name="signals", daemon=True).start()
