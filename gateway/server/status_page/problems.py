"""The problems at the top of the status page, each with the next step."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.server.status_page.model import Problem
from gateway.server.status_page.texts import count, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.server.status_page.model import Outage, Status

CRITICAL, WARNING, INFO = "critical", "warning", "info"
SEVERITIES = (CRITICAL, WARNING, INFO)
# The same times and parts as in the alerts.
CERTIFICATE_WARNING = timedelta(days=14)
CERTIFICATE_CRITICAL = timedelta(days=2)
FAILING_PART = 0.2
RATE_LIMITED_PART = 0.05
NEARLY_FULL = 0.7
# The window of the figures below. One failure among a few requests is no outage.
WINDOW_MINUTES = 5
FEWEST_REQUESTS = 5


def find_problems(status: Status, failing_repeatedly: int, outage_seconds: float) -> tuple[Problem, ...]:
    """Return the problems of a gateway, the worst first.

    Args:
        status: The contents of the page; its own problems do not matter.
        failing_repeatedly: The number of watched jobs whose reads failed several times in a row.
        outage_seconds: The time for which a watch survives failures.
    """
    upstream = tuple(_upstream(status, outage_seconds))
    found = (
        *_process(status),
        *upstream,
        # Otherwise its failures would be reported twice.
        *(() if upstream else _jobs(failing_repeatedly)),
        *_store(status),
        *_certificate(status),
        *_limits(status),
    )
    return tuple(sorted(found, key=lambda each: SEVERITIES.index(each.severity)))


def _process(status: Status) -> Iterator[Problem]:
    if status.process.draining:
        in_flight = sum(each.in_use for each in status.limits if each.name in ("calls", "watches"))
        yield Problem(
            INFO,
            "This gateway is stopping. It accepts no new calls, and "
            f"{count(in_flight, 'call or watch', 'calls and watches')} will end soon.",
            "Nothing to do if a deployment or a restart is in progress: clients continue on another replica.",
            "",
        )
    elif not status.process.ready:
        yield Problem(
            CRITICAL,
            "This gateway serves no calls, because its gRPC listener is not running.",
            "Look at the last log lines, which begin with listener. If it does not recover, the process ends and the "
            "platform starts it again.",
            "",
        )


def _upstream(status: Status, outage_seconds: float) -> Iterator[Problem]:
    for outage in status.upstream.outages:
        if outage.recovering_since is None:
            yield _outage(outage, status.watched.failing, outage_seconds)
        else:
            yield _recovering(outage)
    for recent in status.upstream.recent:
        figures = recent.figures
        if recent.minutes != WINDOW_MINUTES or figures.requests < FEWEST_REQUESTS:
            continue
        failed = (figures.failed + figures.no_response) / figures.requests
        if failed > FAILING_PART and all(each.requests != recent.requests for each in status.upstream.outages):
            yield Problem(
                WARNING,
                f"{failed:.0%} of the {recent.requests} failed at the upstream in the last {WINDOW_MINUTES} minutes.",
                f"Ask the operator of the upstream. Watches survive failures for {duration(outage_seconds)}: do not "
                "restart the gateway.",
                "JobGatewayUpstreamFailing",
            )
        if figures.rate_limited / figures.requests > RATE_LIMITED_PART:
            yield Problem(
                WARNING,
                f"The upstream asks to slow down: {figures.rate_limited / figures.requests:.0%} of the "
                f"{recent.requests} of the last {WINDOW_MINUTES} minutes got a 429.",
                "Events arrive later than usual. Look for a client with many watches or calls below, or poll less "
                "often with JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS.",
                "JobGatewayUpstreamRateLimits",
            )


def _recovering(outage: Outage) -> Problem:
    return Problem(
        WARNING,
        f"The upstream recovers, after it failed all {outage.requests} for {duration(outage.seconds)}: {_why(outage)}.",
        "Nothing to do now. It has failed several times in a short time, so this remains here until it has worked for "
        "up to a minute. If it fails again and again, ask the operator of the upstream.",
        "JobGatewayUpstreamFailing",
    )


def _why(outage: Outage) -> str:
    return f"{outage.reason} ({outage.cause})" if outage.cause else outage.reason


def _outage(outage: Outage, failing_jobs: int, outage_seconds: float) -> Problem:
    affected = f" {count(failing_jobs, 'watched job', 'watched jobs')} cannot be read." if failing_jobs else ""
    survival = (
        f"Watches survive this for {duration(outage_seconds)}. Do not restart the gateway: watches would only start "
        "again."
        if outage.requests == "reads"
        else "Clients are told that their jobs were not sent, or that the outcome is unknown."
    )
    return Problem(
        CRITICAL,
        f"The upstream has failed all {outage.requests} for {duration(outage.seconds)}: {_why(outage)}."
        + (affected if outage.requests == "reads" else ""),
        "Ask the operator of the upstream. If no request ever got a response, check JOBGATEWAY_UPSTREAM_URL, DNS and "
        f"the network policy. {survival}",
        "JobGatewayUpstreamFailing",
    )


def _store(status: Status) -> Iterator[Problem]:
    if not status.store.available:
        yield Problem(
            CRITICAL,
            f"The store of the request ids ({status.store.kind}) cannot be used, so submissions with a request_id "
            "fail.",
            "Find the last log line that begins with state.: it has the reason. Everything else works.",
            "JobGatewayStateUnavailable",
        )


def _certificate(status: Status) -> Iterator[Problem]:
    certificate = status.tls.certificate
    if certificate is None:
        return
    action = "Replace the files of JOBGATEWAY_TLS_CERT_FILE and JOBGATEWAY_TLS_KEY_FILE; no restart is needed."
    if certificate.expires is not None and certificate.expires - status.time < CERTIFICATE_WARNING:
        left = certificate.expires - status.time
        text = f"expires in {duration(left.total_seconds())}" if left > timedelta() else "has expired"
        soon = left < CERTIFICATE_CRITICAL
        section = "JobGatewayCertificateExpiresSoon" if soon else "JobGatewayCertificateExpires"
        yield Problem(CRITICAL if soon else WARNING, f"The certificate {text}.", action, section)
    elif certificate.doubt:
        yield Problem(CRITICAL, f"Clients may reject the certificate: {certificate.doubt}.", action, "")


def _limits(status: Status) -> Iterator[Problem]:
    for limit in status.limits:
        if not limit.unit and limit.name != "polls" and limit.in_use >= NEARLY_FULL * limit.limit:
            yield Problem(
                WARNING,
                f"{limit.in_use:,} of {limit.limit:,} {limit.name.replace('_', ' ')} are in use. At the limit, new "
                "ones are rejected.",
                "Add replicas if all clients use more. If one client takes most of them, see below, limit it.",
                "JobGatewayNearLimit",
            )


def _jobs(failing_repeatedly: int) -> Iterator[Problem]:
    if failing_repeatedly:
        yield Problem(
            WARNING,
            f"{count(failing_repeatedly, 'watched job', 'watched jobs')} could not be read several times in a row.",
            "Show only failing jobs below, and look at their reasons.",
            "JobGatewayUpstreamFailing",
        )
