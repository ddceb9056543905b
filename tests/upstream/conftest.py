from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.transports import PatientTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.transports import MakeTransport


@pytest.fixture
def transport_options() -> dict[str, Any]:
    """Return the default options of the transports that `make` makes."""
    return {}


@pytest.fixture
async def make(transport_options: dict[str, Any]) -> AsyncIterator[MakeTransport]:
    """Make patient transports, and close them."""
    made: list[PatientTransport] = []

    def transport(**options: Any) -> PatientTransport:
        made.append(PatientTransport(**transport_options | options))
        return made[-1]

    yield transport
    for each in made:
        await each.aclose()
