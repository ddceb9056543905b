"""The key of a poll loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable


class WatchKey(NamedTuple):
    """The subject of a loop: a job, and the poll key of the credential that reads it."""

    poll_key: bytes
    job: Hashable
