"""The signals that stop a server, which wait until it can heed them."""

from __future__ import annotations

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT)


def hold_back() -> None:
    """Lets those that come now wait for `let_through`; call it before there are other threads."""
    # With no handler yet they would end the process without a line, or be lost to the first one of a container.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def let_through() -> None:
    """Lets them come, and first those that wait."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
