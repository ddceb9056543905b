"""The problems that the status page names."""

from __future__ import annotations

import re

import pytest

from gateway.server.status_page.as_html import RUNBOOK
from gateway.server.status_page.collector import shown_outage
from gateway.server.status_page.model import Certificate, Outage
from gateway.upstream.health import RequestHealthSnapshot
from tests.support.status_facts import NOW, Facts, expiring

READS = Outage("reads", NOW, None, 125, "UPSTREAM_UNAVAILABLE", "Connection refused")
RECOVERING = Outage("reads", NOW, NOW, 34, "UPSTREAM_UNAVAILABLE", "")


@pytest.mark.parametrize(
    ("facts", "severity", "summary"),
    [
        (Facts(ready=False), "critical", "serves no calls"),
        (Facts(ready=False, draining=True), "info", "This gateway is stopping"),
        (Facts(store=False), "critical", r"The store of the request ids \(redis\) cannot be used"),
        (Facts(certificate=expiring(days=3)), "warning", "The certificate expires in 3 d"),
        (Facts(certificate=expiring(days=1)), "critical", "The certificate expires in 1 d"),
        (Facts(certificate=expiring(hours=-1)), "critical", "The certificate has expired"),
        (Facts(certificate=Certificate(None, "it is not yet valid")), "critical", "may reject .*: it is not yet valid"),
        (
            Facts(outages=(READS,), failing=7),
            "critical",
            r"all reads for 2 min 5 s: UPSTREAM_UNAVAILABLE \(Connection refused\). 7 watched jobs cannot be read",
        ),
        (
            Facts(outages=(RECOVERING,), failing=7),
            "warning",
            "recovers, after it failed all reads for 34 s: UPSTREAM_UNAVAILABLE.",
        ),
        (Facts(outcomes=(79, 0, 0, 20, 1)), "warning", "21% of the reads failed at the upstream"),
        (Facts(outcomes=(90, 10, 0, 0, 0)), "warning", "asks to slow down: 10% of the reads"),
        (Facts(watches=700), "warning", "700 of 1,000 watches are in use"),
        (Facts(failing_repeatedly=1), "warning", "1 watched job could not be read several times in a row"),
    ],
)
def test_each_problem_is_named_with_what_to_do(facts: Facts, severity: str, summary: str) -> None:
    (problem,) = facts.problems()
    assert problem.severity == severity
    assert re.search(summary, problem.summary)
    assert len(problem.action) > 20


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(outcomes=(1, 0, 0, 3, 0)),
        Facts(outcomes=(50, 0, 50, 0, 0)),
        Facts(outcomes=(0, 0, 0, 100, 0), minutes=15),
        Facts(certificate=expiring(days=15)),
        Facts(watches=699),
        Facts(failing=1),
    ],
)
def test_small_failures_are_no_problem(facts: Facts) -> None:
    assert facts.problems() == ()


def test_the_worst_problem_is_first() -> None:
    facts = Facts(watches=1_000, draining=True, outages=(READS,))
    assert [each.severity for each in facts.problems()] == ["critical", "warning", "info"]


def test_an_outage_is_reported_once() -> None:
    (problem,) = Facts(outages=(READS,), outcomes=(0, 0, 0, 100, 0), failing_repeatedly=9).problems()
    assert problem.severity == "critical"


@pytest.mark.parametrize(("recovering_since", "seconds"), [(None, 60), (1_034, 34)])
def test_an_outage_lasts_until_it_recovers(recovering_since: float | None, seconds: float) -> None:
    health = RequestHealthSnapshot("reads", 1_000, recovering_since, "UPSTREAM_TIMEOUT", "no reply", 3, None)
    shown = shown_outage(health, 1_000, time=1_060)
    assert shown.seconds == seconds
    assert shown.since.timestamp() == 1_000
    assert (shown.recovering_since and shown.recovering_since.timestamp()) == recovering_since


def test_every_section_is_in_the_runbook() -> None:
    sections = set(re.findall(r'"(JobGateway\w+)"', (RUNBOOK.parent / "problems.py").read_text()))
    assert len(sections) >= 4
    assert sections <= set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
