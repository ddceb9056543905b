"""A file on a stuck volume: opening it hangs."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class StuckFile:
    """Make each `os.open` of `path` hang until `back` is set."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.back = threading.Event()
        system = os.open

        def hanging(name: Any, *args: Any, **kwargs: Any) -> int:
            if name == path:
                self.back.wait()
            return system(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", hanging)
