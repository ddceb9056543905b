"""The signals that stop a server, which wait until it can handle them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


def stopping() -> AbstractSet[signal.Signals]:
    """Return the signals that stop a server.

    SIGHUP is one of them unless the process was started with it ignored, as by `nohup`.
    """
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignores_hangup else {signal.SIGHUP})


def hold_back() -> None:
    """Hold back the signals that come now until `let_through`; call it before there are other threads."""
    # With no handler yet they would end the process without a line, or be lost to the first one of a container.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping())


def let_through() -> None:
    """Deliver these signals, first those that were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping())
