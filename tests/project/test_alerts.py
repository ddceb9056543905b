"""Evaluate each alert rule with promtool: series for which it fires, and similar ones for which it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.project.test_monitoring import ALERTS

if TYPE_CHECKING:
    from pathlib import Path

# The values of a series, in promtool's notation: `a+bxn` is a, then n times b more, one at each step.
Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Series, and the alert at minute `at`: its summary and labels, or none if it does not fire."""

    series: Series
    at: int = 30
    summary: str = ""
    labels: dict[str, str] = field(default_factory=dict)


DAY = 86_400
# Of 5 minutes: with the 30 seconds of the others, one case would take a quarter of a minute.
STEPS_OF_DAY = 288
MANY_MORE = "of the jobs fail, which is many more than in the day before."
AFTER_A_DAY = 1_440 + 36


def _named(metric: str, **labels: str) -> str:
    return f"{metric}{{{', '.join(f'{name}={value!r}' for name, value in {'job': 'jobgateway', **labels}.items())}}}"


def handled(*, per_step: dict[str, int]) -> Series:
    return {_named("grpc_server_handled_total", grpc_code=code): f"0+{n}x100" for code, n in per_step.items()}


def upstream(*, per_step: dict[str, int]) -> Series:
    name = "jobgateway_upstream_request_seconds_count"
    return {_named(name, method="GET", status_class=each): f"0+{n}x100" for each, n in per_step.items()}


def outcomes(outcome: str, polls: str, submissions: str) -> Series:
    return {
        _named("jobgateway_polls_total", outcome=outcome): polls,
        _named("jobgateway_submissions_total", outcome=outcome): submissions,
    }


def ended(*, before: dict[str, float], now: dict[str, float]) -> Series:
    """Return ended jobs per 5 minutes, by status, for a day and for the 40 minutes after it."""
    name = "jobgateway_jobs_ended_total"
    return {
        _named(name, status=status): f"0+{n}x{STEPS_OF_DAY} {STEPS_OF_DAY * n + now[status]}+{now[status]}x8"
        for status, n in before.items()
    }


def usage(limit: str, used: int, most: int) -> Series:
    labels = {"instance": "a", "limit": limit}
    return {
        _named("jobgateway_limit_used", **labels): f"{used}x100",
        _named("jobgateway_limit_max", **labels): f"{most}x100",
    }


def memory(used: int, limit: int) -> Series:
    # As of cAdvisor: for each container, also those that have ended, and for their pod.
    series: Series = {}
    for name, values in (("container_memory_working_set_bytes", used), ("container_spec_memory_limit_bytes", limit)):
        for container, identity in (("jobgateway", "1"), ("jobgateway", "2"), ("other", "3")):
            labels = f'namespace="n", pod="p", container="{container}", id="{identity}"'
            series[f"{name}{{{labels}}}"] = f"{values}x100"
    return series


def expiry(days: float) -> Series:
    at = "NaN" if days != days else f"{30 * 60 + days * DAY:.0f}"
    return {_named("jobgateway_certificate_expiry_timestamp_seconds", instance="a"): " ".join([at] * 100)}


def delivery(fast: int, slow: int) -> Series:
    buckets = {"1": fast, "2.5": fast + slow, "+Inf": fast + slow}
    return {_named("jobgateway_delivery_seconds_bucket", le=le): f"0+{n}x100" for le, n in buckets.items()}


def one(metric: str, values: str) -> Series:
    return {_named(metric, instance="a"): values}


A = {"job": "jobgateway", "instance": "a"}
DEFECT, LIMITED = "GATEWAY_DEFECT", "UPSTREAM_RATE_LIMITED"

CASES: dict[str, list[Case]] = {
    "JobGatewayGone": [
        Case({}, summary="Prometheus reaches no replica of the gateway."),
        Case(one("up", "0x100"), summary="Prometheus reaches no replica of the gateway."),
        Case({**one("up", "0x100"), _named("up", instance="b"): "1x100"}),
    ],
    "JobGatewayDefect": [
        Case(outcomes(DEFECT, "0x55 1x50", "0x105"), summary="A poll or a submission met a defect of the gateway."),
        Case(outcomes(DEFECT, "0x105", "0x55 1x50"), summary="A poll or a submission met a defect of the gateway."),
        Case(outcomes(DEFECT, "3x100", "3x100") | outcomes("OK", "0+9x100", "0+9x100")),
    ],
    "JobGatewayErrors": [
        Case(
            handled(per_step={"OK": 90, "Internal": 2, "Unavailable": 2, "Unknown": 2, "NotFound": 4}),
            summary="6% of the calls fail with INTERNAL, UNAVAILABLE or UNKNOWN.",
        ),
        Case(handled(per_step={"OK": 90, "Internal": 4, "NotFound": 6})),
    ],
    "JobGatewayUpstreamFailing": [
        Case(
            {
                **one("jobgateway_upstream_failing", "0x40 1x60"),
                _named("jobgateway_upstream_failing", instance="b"): "0x100",
            },
            summary="The upstream fails for 1 replicas.",
        ),
        Case(one("jobgateway_upstream_failing", "0x58 1x60")),
    ],
    "JobGatewayUpstreamErrors": [
        Case(
            upstream(per_step={"2xx": 70, "5xx": 15, "none": 15}), summary="30% of the requests to the upstream fail."
        ),
        Case(upstream(per_step={"2xx": 40, "4xx": 50, "5xx": 10})),
    ],
    "JobGatewayUpstreamRateLimits": [
        Case(outcomes(LIMITED, "0+1x100", "0x100"), summary="The upstream keeps asking the gateway to slow down."),
        # It stopped some minutes ago.
        Case(outcomes(LIMITED, "0+1x40 40x60", "0x100")),
    ],
    "JobGatewayOutcomesUnknown": [
        Case(
            {_named("jobgateway_submissions_total", outcome="SUBMIT_OUTCOME_UNKNOWN"): "0x50 1x50"},
            summary="For some submissions, it is unknown whether a job runs.",
        ),
        Case({_named("jobgateway_submissions_total", outcome="SUBMIT_OUTCOME_UNKNOWN"): "0x10 1x90"}),
    ],
    "JobGatewayStateUnavailable": [
        Case(one("jobgateway_state_available", "1x40 0x60"), 30, "a cannot use the store of request ids.", A),
        Case(one("jobgateway_state_available", "1x58 0x60")),
    ],
    "JobGatewayRefuses": [
        Case(
            handled(per_step={"OK": 90, "ResourceExhausted": 10}),
            summary="10% of the calls are rejected because of a limit.",
        ),
        Case(handled(per_step={"OK": 96, "ResourceExhausted": 4})),
    ],
    "JobGatewayBusy": [
        Case(
            one("process_cpu_seconds_total", "0+27x100"),
            30,
            "a uses nearly all of the one core that a process can use.",
            A,
        ),
        Case(one("process_cpu_seconds_total", "0+21x100")),
    ],
    "JobGatewayDeliversLate": [
        Case(delivery(90, 10), summary="One state in a hundred takes 2.35s to reach its watcher."),
        Case(delivery(1_000, 1)),
    ],
    "JobGatewayLargeAnswersWait": [
        Case(one("jobgateway_large_answers_waiting", "2x100"), 30, "Large responses wait for memory at a.", A),
        Case(one("jobgateway_large_answers_waiting", "2x55 0 2x50")),
    ],
    "JobGatewayFilesRunOut": [
        Case(
            one("process_open_fds", "900x100") | one("process_max_fds", "1000x100"),
            30,
            "a has opened 90% of the files that it may open.",
            A,
        ),
        Case(one("process_open_fds", "700x100") | one("process_max_fds", "1000x100")),
    ],
    "JobGatewayJobsFail": [
        Case(
            ended(before={"SUCCESS": 90, "ERROR": 8, "TIMEOUT": 2}, now={"SUCCESS": 60, "ERROR": 30, "TIMEOUT": 10}),
            AFTER_A_DAY,
            f"40% {MANY_MORE}",
        ),
        # Many fail, as always.
        Case(ended(before={"SUCCESS": 60, "ERROR": 40}, now={"SUCCESS": 50, "ERROR": 50}), AFTER_A_DAY),
        # All fail, but they are few.
        Case(ended(before={"SUCCESS": 1, "ERROR": 0}, now={"SUCCESS": 0, "ERROR": 1}), AFTER_A_DAY),
        # The jobs reject their input.
        Case(
            ended(
                before={"SUCCESS": 99, "ERROR": 1, "ERROR_USER": 0}, now={"SUCCESS": 9, "ERROR": 1, "ERROR_USER": 90}
            ),
            AFTER_A_DAY,
        ),
        # There were no jobs the day before, or nothing is known about it.
        Case(
            ended(before={"SUCCESS": 0, "ERROR": 0}, now={"SUCCESS": 0, "ERROR": 40}), AFTER_A_DAY, f"100% {MANY_MORE}"
        ),
        Case(
            {_named("jobgateway_jobs_ended_total", status="ERROR"): "0+9x300"}, AFTER_A_DAY - 1_440, f"100% {MANY_MORE}"
        ),
        # All have failed for a day.
        Case(
            ended(before={"SUCCESS": 0, "ERROR": 40}, now={"SUCCESS": 0, "ERROR": 40}), AFTER_A_DAY, f"100% {MANY_MORE}"
        ),
    ],
    "JobGatewayNearLimit": [
        Case(usage("watches", 15_000, 20_000), 30, "a uses 75% of its watches.", A | {"limit": "watches"}),
        Case(usage("request_ids", 75_000, 100_000), 30, "a uses 75% of its request_ids.", A | {"limit": "request_ids"}),
        Case(usage("calls", 690, 1_000)),
        # They wait for each other.
        Case(usage("polls", 256, 256)),
    ],
    "JobGatewayMemoryNearLimit": [
        Case(memory(95, 100), 30, "p uses 95% of its memory limit.", {"namespace": "n", "pod": "p"}),
        Case(memory(80, 100)),
        Case(memory(95, 0)),
    ],
    "JobGatewayCertificateExpires": [
        Case(expiry(13), 30, "The certificate of a expires in 13d 0h 0m 0s.", A),
        Case(expiry(15)),
        Case(expiry(float("nan"))),
    ],
    "JobGatewayCertificateExpiresSoon": [
        Case(expiry(1), 30, "The certificate of a expires in 1d 0h 0m 0s.", A),
        Case(expiry(-1), 30, "The certificate of a expires in -1d 0h 0m 0s.", A),
        Case(expiry(3)),
        Case(expiry(float("nan"))),
    ],
}


def _test(rule: dict[str, Any], case: Case) -> dict[str, Any]:
    expected = []
    if case.summary:
        annotations = {**rule["annotations"], "summary": case.summary}
        expected = [{"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}]
    moments = [(f"{case.at}m", expected)]
    if "for" in rule:
        # It is pending for that long, even if the condition holds from the beginning.
        moments.insert(0, (f"{int(rule['for'][:-1]) - 1}m", []))
    return {
        "interval": _step(case),
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"eval_time": at, "alertname": rule["alert"], "exp_alerts": alerts} for at, alerts in moments
        ],
    }


def _step(case: Case) -> str:
    return "5m" if case.at == AFTER_A_DAY else "30s"


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert list(CASES) == [rule["alert"] for rule in ALERTS]
    for cases in CASES.values():
        assert {bool(case.summary) for case in cases} == {True, False}


@pytest.mark.tools
@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_fires_as_documented(rule: dict[str, Any], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        assert not os.environ.get("CI"), "promtool is missing"
        pytest.skip("promtool is missing")
    # Alone, because promtool evaluates all rules at each step, and one case lasts a day.
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": _step(CASES[rule["alert"]][0]),
        "tests": [_test(rule, case) for case in CASES[rule["alert"]]],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(  # noqa: S603 - our own files
        [promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
