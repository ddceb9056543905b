"""The sentences of the status page."""

from __future__ import annotations

import re

import pytest

from gateway.server.status_page.as_html import HtmlPages
from gateway.server.status_page.model import Certificate
from gateway.server.status_page.query import Query
from tests.support.status_facts import NOW, Facts, expiring


def page(facts: Facts) -> str:
    return re.sub(r"\s+", " ", HtmlPages().status(facts.status(), Query()).decode())


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (None, "<dd>None</dd>"),
        (expiring(days=20), "<dd>Valid for 20 d</dd>"),
        (expiring(hours=-30), '<dd class="bad">Expired</dd><dd class="note">Since 2026-11-26 21:00 UTC.'),
        (Certificate(NOW, "certificate has expired"), '<dd class="bad">Expired</dd>'),
        (Certificate(None, "it is not yet valid"), '<dd class="bad">Doubtful</dd>'),
    ],
)
def test_the_certificate_is_valid_expired_or_doubtful(certificate: Certificate | None, text: str) -> None:
    assert text in page(Facts(certificate=certificate))


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ((0, 0, 0, 0, 0), "no request went to the upstream in the last 15 minutes, and"),
        ((0, 0, 0, 0, 4), "no request got a response yet, and"),
        ((1, 0, 0, 0, 3), "the upstream answers, and"),
    ],
)
def test_the_upstream_answers_if_a_response_came(outcomes: tuple[int, int, int, int, int], text: str) -> None:
    assert f"All is well.</h1> <p>The gateway accepts calls, {text}" in page(Facts(outcomes=outcomes))
