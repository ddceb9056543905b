"""The status page as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.server.status_page.model import Status


def to_json(status: Status) -> bytes:
    """Return the JSON of a page, with an indentation for people who use curl."""
    return msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"
