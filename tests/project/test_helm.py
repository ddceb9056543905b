"""Compare the Helm chart with the kustomizations and with the code, and see what it says about wrong values."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from gateway import __version__
from gateway.config import PREFIX, Settings
from tests.support.manifests import (
    DEPLOY,
    FOREIGN,
    KUBERNETES,
    Objects,
    container,
    parsed,
    pod,
    tool,
    variables,
    with_components,
    workload,
)
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.tools

CHART = DEPLOY / "helm" / "jobgateway"
# kustomize components, and the values that stand for them.
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "base": ([], {}),
    "tls": (["tls"], {"tls": {"enabled": True}}),
    "sqlite": (["sqlite"], {"state": {"store": "sqlite"}}),
    "redis": (["redis"], {"state": {"store": "redis"}, "replicas": 2}),
    "monitoring": (["monitoring"], {"monitoring": {"enabled": True}}),
    "cert-manager": (["tls", "cert-manager"], {"tls": {"enabled": True, "certManager": {"enabled": True}}}),
    "autoscaling": (["redis", "autoscaling"], {"state": {"store": "redis"}, "autoscaling": {"enabled": True}}),
}
ADDED_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}


def helm(command: str, values: dict[str, Any], chart: Path = CHART, *, release: str = "") -> tuple[int, str]:
    """Run a command on the chart; return its exit code, and its output or its errors."""
    names = [release, str(chart)] if release else [str(chart)]
    done = subprocess.run(  # noqa: S603 - our own chart
        # A helm that Go has built takes Kubernetes 1.20 for the newest.
        [*tool(["helm"]), *command.split(), *names, "--kube-version=1.30", "--namespace=jobgateway", "--values=-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr if done.returncode else done.stdout


def template(values: dict[str, Any], release: str = "jobgateway", chart: Path = CHART) -> Objects:
    code, text = helm("template", values, chart, release=release)
    assert code == 0, text
    return parsed(text)


def error(values: dict[str, Any]) -> str:
    code, text = helm("template", values, release="jobgateway")
    assert code == 1
    return text


def without_additions(value: Any) -> Any:
    """Return an object without the labels and annotations that Helm adds, and the hash that kustomize adds."""
    if isinstance(value, list):
        return [without_additions(each) for each in value]
    if isinstance(value, dict):
        return {
            name: without_additions(each)
            for name, each in value.items()
            if name not in ADDED_LABELS and not (name == "annotations" and set(each) == {"checksum/settings"})
        }
    if isinstance(value, str):
        return re.sub(r"^jobgateway-[bcdfghkmt2-9]{10}$", "jobgateway", value)
    return value


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_makes_the_objects_of_kustomize(variant: str, tmp_path: Path) -> None:
    components, values = VARIANTS[variant]
    expected = with_components(tmp_path, *components)
    found = template(values)
    assert set(found) == set(expected)
    for kind, each in expected.items():
        assert without_additions(found[kind]) == without_additions(each)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_object_of_the_chart_is_valid(variant: str) -> None:
    for each in template(VARIANTS[variant][1]).values():
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_lint_finds_nothing(variant: str) -> None:
    code, text = helm("lint --strict", VARIANTS[variant][1])
    assert code == 0, text
    assert "[WARNING]" not in text


def test_chart_and_image_have_the_version_of_the_gateway() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert container(template({}))["image"] == f"jobgateway:{__version__}"


def test_a_digest_replaces_the_tag() -> None:
    image = {"repository": "example.com:5000/jobgateway", "tag": "latest", "digest": f"sha256:{'0a' * 32}"}
    assert container(template({"image": image}))["image"] == f"example.com:5000/jobgateway@sha256:{'0a' * 32}"


def test_each_value_is_documented_and_checked() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    # Helm adds `global` if the chart is part of another one.
    assert set(schema["properties"]) == {*values, "global"}
    table = (CHART / "README.md").read_text().partition("| value | use it to |\n")[2]
    named = {
        name
        for row in table.partition("\n\n")[0].splitlines()
        for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])
    }
    assert named == set(values)


@pytest.mark.parametrize(
    ("page", "name"), [(CHART / "README.md", "my-values"), (ROOT / "docs" / "operations" / "deploy.md", "values")]
)
def test_the_documented_values_need_only_a_digest(page: Path, name: str) -> None:
    (text,) = re.findall(rf"^```yaml\n# {name}\.yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert "at '/image/digest': 'sha256:DIGEST' does not match pattern" in error(yaml.safe_load(text))
    digest = "f" * 64
    objects = template(yaml.safe_load(text.replace("DIGEST", digest)))
    assert container(objects)["image"] == f"example.com/jobgateway@sha256:{digest}"


def test_any_setting_can_be_given() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    given = set(schema["properties"]["settings"]["properties"])
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    own = set(re.findall(rf"{PREFIX}\w+", "".join(each.read_text() for each in CHART.glob("templates/*.tpl"))))
    assert given == known - own
    assert own <= known


def test_settings_arrive_as_they_were_given() -> None:
    given = {
        "JOBGATEWAY_MAX_WATCHES": 100_000,
        "JOBGATEWAY_POLL_INTERVAL_MIN_SECONDS": 0.5,
        "JOBGATEWAY_REFLECTION": False,
        "JOBGATEWAY_LOG_FORMAT": "text",
    }
    objects = template({"settings": given, "drainGraceSeconds": 2.5, "upstreamUrl": "http://upstream:8080/api"})
    expected = {
        "MAX_WATCHES": "100000",
        "POLL_INTERVAL_MIN_SECONDS": "0.5",
        "REFLECTION": "false",
        "LOG_FORMAT": "text",
    }
    expected |= {"DRAIN_GRACE_SECONDS": "2.5", "UPSTREAM_URL": "http://upstream:8080/api"}
    assert {f"{PREFIX}{name}": value for name, value in expected.items()}.items() <= variables(objects).items()
    Settings.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in variables(objects).items()})
    # A part of a second is rounded up.
    assert pod(objects)["terminationGracePeriodSeconds"] == 18


def test_a_changed_setting_replaces_the_pods() -> None:
    def checksum(objects: Objects) -> Any:
        return workload(objects)["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    before = checksum(template({}))
    assert before == checksum(template({"replicas": 1}))
    assert before != checksum(template({"settings": {"JOBGATEWAY_REFLECTION": False}}))


def test_two_releases_share_no_pods() -> None:
    one, other = (template({}, release)[f"Service/{release}-jobgateway"]["spec"] for release in ("one", "other"))
    assert one["selector"] != other["selector"]
    objects = template(VARIANTS["cert-manager"][1], "one")
    assert objects["Certificate/one-jobgateway"]["spec"]["secretName"] == "one-jobgateway-tls"
    names = ["one-jobgateway.jobgateway.svc.cluster.local", "one-jobgateway.jobgateway.svc"]
    assert objects["Certificate/one-jobgateway"]["spec"]["dnsNames"] == names


def test_the_policy_can_name_the_upstream() -> None:
    extra = {"ports": [{"port": 15012, "protocol": "TCP"}]}
    upstream = [{"cidr": "10.1.2.0/24", "port": 8443}]
    egress = template({"networkPolicy": {"upstream": upstream, "egress": [extra]}})["NetworkPolicy"]["spec"]["egress"]
    block = {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}], "ports": [{"port": 8443, "protocol": "TCP"}]}
    assert egress[1:] == [block, extra]
    assert "NetworkPolicy" not in template({"networkPolicy": {"enabled": False}})


def test_files_and_variables_can_be_added() -> None:
    mount = {"name": "ca", "mountPath": "/etc/ssl/upstream", "readOnly": True}
    volume = {"name": "ca", "configMap": {"name": "upstream-ca"}}
    variable = {"name": "SSL_CERT_FILE", "value": "/etc/ssl/upstream/ca.crt"}
    for store in ("memory", "sqlite", "redis"):
        objects = template({"env": [variable], "volumes": [volume], "volumeMounts": [mount], "state": {"store": store}})
        assert variable in container(objects)["env"]
        assert mount in container(objects)["volumeMounts"]
        assert volume in pod(objects)["volumes"]


def test_an_issuer_of_the_operator_can_sign() -> None:
    issuer = {"kind": "ClusterIssuer", "name": "internal"}
    objects = template({"tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": issuer}}})
    assert {name for name in objects if "Issuer" in name or "Certificate" in name} == {"Certificate"}
    assert objects["Certificate"]["spec"]["issuerRef"] == issuer


def test_the_alerts_link_to_the_runbooks_of_the_operator() -> None:
    monitoring = {"enabled": True, "runbooks": "https://wiki.example.com/x", "labels": {"release": "stack"}}
    objects = template({"monitoring": monitoring})
    assert {objects[kind]["metadata"]["labels"]["release"] for kind in ("PrometheusRule", "ServiceMonitor")} == {
        "stack"
    }
    rules = objects["PrometheusRule"]
    links = [rule["annotations"]["runbook_url"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert links
    assert all(each.startswith("https://wiki.example.com/x/docs/operations/alerts.md#") for each in links)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
    (
        {"replicas": 2},
        "replicas: 2 replicas need a shared store of request_ids (state.store is memory); set state.store",
    ),
    ({"replicas": 2, "state": {"store": "sqlite"}}, "(state.store is sqlite); set state.store=redis, or replicas=1"),
    ({"autoscaling": {"enabled": True}}, "autoscaling.enabled: several replicas need a shared store of request_ids"),
    ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas: 9 is above autoscaling.maxReplicas (6)"),
    ({"autoscaling": {"cpu": "50%"}}, "at '/autoscaling/cpu': '50%' does not match pattern"),
    ({"state": {"store": "mysql"}}, "at '/state/store': value must be one of 'memory', 'sqlite', 'redis'"),
    ({"tls": {"certManager": {"enabled": True}}}, "tls.certManager.enabled: needs tls.enabled=true"),
    (
        {"tls": {"certManager": {"issuerRef": {"name": "x"}}}},
        "at '/tls/certManager/issuerRef': missing property 'kind'",
    ),
    ({"image": {"digest": "sha256:DIGEST"}}, "at '/image/digest': 'sha256:DIGEST' does not match pattern"),
    ({"image": {"repository": "example.com/x:1.0"}}, "at '/image/repository': 'example.com/x:1.0' does not match"),
    ({"upstreamUrl": "cloud.viktor.ai"}, "at '/upstreamUrl': 'cloud.viktor.ai' does not match pattern"),
    ({"drainGraceSeconds": -1}, "at '/drainGraceSeconds': minimum: got -1, want 0"),
    (
        {"settings": {"JOBGATEWAY_MAX_CALS": 1}},
        "at '/settings': additional properties 'JOBGATEWAY_MAX_CALS' not allowed",
    ),
    ({"settings": {"JOBGATEWAY_MAX_CALLS": 0}}, "at '/settings/JOBGATEWAY_MAX_CALLS': minimum: got 0, want 1"),
    ({"settings": {"JOBGATEWAY_LISTEN": "[::]:1"}}, "additional properties 'JOBGATEWAY_LISTEN' not allowed"),
    (
        {"networkPolicy": {"upstream": [{"cidr": "10.0.0.0/8"}]}},
        "at '/networkPolicy/upstream/0': missing property 'port'",
    ),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_wrong_value_is_named(values: dict[str, Any], message: str) -> None:
    assert message in error(values)


def notes(values: dict[str, Any], folder: Path) -> str:
    """Return the notes of an installation, without the cluster that `helm install` needs."""
    chart = folder / "jobgateway"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    (chart / "templates" / "notes.yaml").write_text(
        "kind: Notes\nmetadata: {name: jobgateway}\n"
        'text: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}\n'
    )
    text: str = template(values, chart=chart)["Notes"]["text"]
    return text


def test_the_notes_have_a_first_command(tmp_path: Path) -> None:
    text = notes({}, tmp_path)
    assert "kubectl --namespace jobgateway port-forward service/jobgateway 50051 &\n  jobgateway get UID\n" in text
    assert "dns:///jobgateway.jobgateway.svc.cluster.local:50051" in text
    assert re.findall(r"WARNING: ([\w ]+)", text) == [
        "The gateway listens in plaintext",
        "request_ids are lost when the pod restarts",
        "The image is given by a tag",
    ]


def test_the_notes_fit_the_values(tmp_path: Path) -> None:
    values = {
        "image": {"digest": f"sha256:{'0' * 64}"},
        "tls": {"enabled": True},
        "state": {"store": "sqlite"},
        "networkPolicy": {"enabled": False},
    }
    text = notes(values, tmp_path)
    assert "rollout status statefulset jobgateway" in text
    assert (
        "jobgateway get UID --target localhost:50051 --ca-file ca.crt --cert-file client.crt --key-file client.key"
        in text
    )
    assert "WARNING" not in text
    assert "label namespace CLIENTS" not in text


def test_a_package_contains_the_alerts(tmp_path: Path) -> None:
    # In the repository, they are a symbolic link, so that there is one copy.
    done = subprocess.run(  # noqa: S603 - our own chart
        [*tool(["helm"]), "package", str(CHART), "--destination", str(tmp_path)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    package = tmp_path / f"jobgateway-{__version__}.tgz"
    rules = template(VARIANTS["monitoring"][1], chart=package)["PrometheusRule"]
    assert rules["spec"] == yaml.safe_load((KUBERNETES / "monitoring" / "prometheusrule.yaml").read_text())["spec"]
