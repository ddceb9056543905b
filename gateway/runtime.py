"""How the process of `serve` runs Python: which event loop, and when garbage is collected."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import NoReturn

T = TypeVar("T")

# Objects that are made and not freed until the young are looked at, and how many such looks it takes until older ones
# are, and all. By default a look at everything comes so often that with 10,000 watches it is more than half of all CPU
# time, and the event loop stands still for half a second each time. Nothing here relies on it: what ends is freed at
# once, and what is in a cycle is small, and waits. The young are looked at often, for a look at 20,000 takes 20 ms.
GC_THRESHOLDS = (2_000, 10, 2_000)


def run(main: Coroutine[None, None, T]) -> T:
    """Runs a coroutine to its end, as the only thing that this process does."""
    gc.collect()
    # What was imported stays for good.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    return uvloop.run(main)


def leave(code: int) -> NoReturn:
    """End the process with its log written. Python's own way out would wait for threads that hang."""
    with contextlib.suppress(OSError, ValueError):
        logging.shutdown()
        for each in (sys.stdout, sys.stderr):
            if each is not None:
                each.flush()
    os._exit(code)
