"""Compare the alert rules and the dashboard in deploy/ with the /metrics of a gateway that had traffic."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc import status
from tests.support import scraping
from tests.support.gateways import BEARER, running, stub
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.simulator import Simulator

RULES = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "monitoring" / "prometheusrule.yaml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "jobgateway.json").read_text())
PAGE = (ROOT / "docs" / "operations" / "alerts.md").read_text()
RUNBOOK = "https://example.com/jobgateway/docs/operations/alerts.md#"
ALERTS = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "5m", "$job": "jobgateway", "$namespace": ".*", "$instance": ".*"}
# Added by Prometheus itself: a metric of each scrape, and the labels of its target.
UP = "up"
TARGET = {"job", "instance", "namespace"}
# Of the cAdvisor of the kubelet, which knows containers and no jobs.
CADVISOR = {"container_memory_working_set_bytes", "container_spec_memory_limit_bytes"}
CADVISOR_LABELS = {"namespace", "pod"}


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALERTS)
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])


def parsed(expression: str) -> Any:
    """Parse an expression, with values for the variables of the dashboard; raise `ValueError` if it is not PromQL."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def parts(expression: str) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(parsed(expression), pre_visit=found.append)
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    return [each for each in parts(expression) if isinstance(each, promql_parser.VectorSelector)]


Samples = dict[str, dict[str, set[str]]]


@pytest.fixture
async def samples(simulator: Simulator) -> Samples:
    """The values of each label of each sample, after a job that succeeded."""
    async with running(simulator.url) as gateway, stub(gateway) as jobs:
        request = pb.SendJobRequest(
            workspace_id="1", entity_id=1, method_name="succeed", params_json=b'{"duration": 0.1}'
        )
        events = [event async for event in jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)]
        assert events[-1].job.done
        scraped = await scraping.scrape(gateway)
    found: Samples = {}
    for name, labels in scraped.samples:
        of_name = found.setdefault(name, {})
        for label, value in labels:
            of_name.setdefault(label, set()).add(value)
    return found


async def test_expressions_use_existing_metrics_and_labels(samples: Samples) -> None:
    for expression in expressions():
        labels: set[str] = set()
        for selector in selectors(expression):
            if selector.name in CADVISOR:
                labels |= CADVISOR_LABELS
            elif selector.name != UP:
                assert selector.name in samples, expression
                labels |= set(samples[selector.name])
                for matcher in selector.matchers.matchers:
                    if matcher.name not in TARGET:
                        values = samples[selector.name].get(matcher.name, set())
                        assert set(matcher.value.split("|")) <= values, expression
        for each in parts(expression):
            if isinstance(each, promql_parser.AggregateExpr) and each.modifier:
                assert set(each.modifier.labels) <= labels | TARGET, expression


def test_each_expression_selects_this_job() -> None:
    for expression in expressions():
        found = selectors(expression)
        assert found, expression
        for each in found:
            selected = {(matcher.name, matcher.value) for matcher in each.matchers.matchers}
            assert (("container" if each.name in CADVISOR else "job"), "jobgateway") in selected


def test_counters_are_used_with_a_range() -> None:
    for expression in expressions():
        ranges = [
            each.vector_selector.name or ""
            for each in parts(expression)
            if isinstance(each, promql_parser.MatrixSelector)
        ]
        names = [each.name or "" for each in selectors(expression)]
        counters = [name for name in names if re.search(r"_(total|bucket|count|sum)$", name)]
        assert sorted(ranges) == sorted(counters), expression


def test_each_alert_is_documented_with_meaning_and_action() -> None:
    sections = re.findall(
        r"^## (JobGateway\w+)\n\n\*\*Severity:\*\* (\w+)\n\n\*\*Meaning\.\*\* (.*?)^\*\*Action\.\*\*(.*?)(?=^## )",
        PAGE,
        re.DOTALL | re.MULTILINE,
    )
    assert all(len(meaning) > 20 and len(action) > 20 for *_, meaning, action in sections)
    documented = [(name, severity) for name, severity, *_ in sections]
    assert documented == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == RUNBOOK + rule["alert"].lower()
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))


def test_the_defect_alert_lists_the_other_internal_errors() -> None:
    rows = {*status.BY_HTTP_STATUS.values(), status.OTHER_4XX, status.OTHER_5XX, *status.BY_ERROR.values()}
    internal = {row.reason for row in rows if row.code is StatusCode.INTERNAL}
    (paragraph,) = re.findall(r"^`JobGatewayDefect` .*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    # With no other reason, the alert could count the INTERNAL calls instead.
    assert {"GATEWAY_DEFECT", *re.findall(r"`([A-Z]+_[A-Z]+)`", paragraph)} == internal
    assert len(internal) > 1


def test_panels_have_their_own_positions_and_titles() -> None:
    positions = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in DASHBOARD["panels"]]
    assert positions == sorted(set(positions))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(positions)
    for one, other in pairwise(PANELS):
        assert one["title"] != other["title"]
    for panel in PANELS:
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_panels_can_be_narrowed_to_a_namespace_and_an_instance() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "namespace", "instance"]
    for name in ("namespace", "instance"):
        # A target outside of Kubernetes has no namespace, which `.*` matches too.
        assert (variables[name]["includeAll"], variables[name]["allValue"]) == (True, ".*")
    for panel in PANELS:
        for target in panel["targets"]:
            for each in selectors(target["expr"]):
                names = [matcher.name for matcher in each.matchers.matchers]
                assert {"job", "namespace", "instance"} <= set(names), panel["title"]


def test_a_row_of_numbers_with_thresholds_is_on_top() -> None:
    top = [panel for panel in PANELS if panel["type"] == "stat"]
    assert [panel["title"] for panel in top] == [
        *("Replicas up", "Upstream", "Error rate", "Watches", "Fullest limit", "Jobs failing", "Certificate"),
    ]
    assert {panel["gridPos"]["y"] for panel in top} == {0}
    assert sum(panel["gridPos"]["w"] for panel in top) == 24
    for panel in top:
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


def test_panels_do_not_overlap() -> None:
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_each_alert_is_linked_from_the_dashboard() -> None:
    links = [link["url"] for panel in PANELS for link in panel.get("links", [])]
    known = {rule["annotations"]["runbook_url"] for rule in ALERTS}
    assert set(links) <= known
    # Logs and other panels show these better than a number could.
    unlinked = {url.removeprefix(RUNBOOK) for url in known - set(links)}
    assert unlinked == {"jobgatewaydefect", "jobgatewayrefuses", "jobgatewaycertificateexpiressoon"}
    assert [link["url"] for link in DASHBOARD["links"]] == [RUNBOOK.removesuffix("#")]


def test_the_dashboard_has_only_fields_of_grafana() -> None:
    # As of https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model
    known = {
        *("annotations", "editable", "graphTooltip", "links", "panels", "refresh", "schemaVersion", "tags"),
        *("templating", "time", "timezone", "title", "uid", "version"),
    }
    assert set(DASHBOARD) <= known
    of_panel = {"id", "type", "title", "description", "datasource", "gridPos", "links", "fieldConfig", "targets"}
    of_field = {"unit", "min", "max", "decimals", "noValue", "color", "thresholds", "mappings", "custom"}
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries")
        assert set(panel) - {"options"} <= of_panel
        assert ("options" in panel) == (panel["type"] == "stat")
        assert set(panel["fieldConfig"]["defaults"]) <= of_field
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", []):
            assert mapping["type"] in ("value", "range", "special")
