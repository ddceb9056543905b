"""Requests to the admin address, and the metrics of a scrape."""

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
        """Return the sum of all samples with this name and these labels."""
        values = [
            value for (each, found), value in self.samples.items() if each == name and labels.items() <= set(found)
        ]
        assert values, f"no sample {name} {labels}"
        return sum(values)

    def values_of(self, label: str) -> set[str]:
        """Return all values of a label."""
        return {dict(labels)[label] for _, labels in self.samples if label in dict(labels)}


async def fetch(
    gateway: Gateway, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send one request to the admin address."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://{gateway.admin_address}{path}", headers=headers)


async def scrape(gateway: Gateway) -> Scrape:
    """Return the present metrics."""
    response = await fetch(gateway, "/metrics")
    assert response.status_code == 200
    return Scrape(response.text)
