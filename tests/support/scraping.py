"""What a scrape of the admin address gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.server.gateway import Gateway


class Scrape:
    """The samples of one scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that bear these labels."""
        found = [
            value for (each, those), value in self.samples.items() if each == name and labels.items() <= set(those)
        ]
        assert found, f"no sample {name} {labels}"
        return sum(found)

    def values_of(self, label: str) -> set[str]:
        """All values that a label has."""
        return {dict(labels)[label] for _, labels in self.samples if label in dict(labels)}


async def fetch(
    gateway: Gateway, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """One request to the admin address."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://{gateway.admin_address}{path}", headers=headers)


async def scrape(gateway: Gateway) -> Scrape:
    """The metrics as they are now."""
    response = await fetch(gateway, "/metrics")
    assert response.status_code == 200
    return Scrape(response.text)
