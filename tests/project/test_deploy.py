"""Render the manifests in deploy/kubernetes like an operator, and compare them with the schemas and the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2

from gateway import __version__
from gateway.config import PREFIX, Settings
from gateway.server import defaults, gateway
from tests.support.image import DOCKERFILE, stages
from tests.support.paths import ROOT

pytestmark = pytest.mark.tools

DEPLOY = ROOT / "deploy"
OPERATIONS = ROOT / "docs" / "operations"
# The first version with `preStop.sleep` without a feature gate, and the latest one whose schemas are installed.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Kinds of the Prometheus operator, which have no schemas here.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
# The time after the grace, in three equal parts: the stop of grpc, the ended calls, and the submissions.
FLUSHES = 3 * defaults.FLUSH_RESPONSES_SECONDS


Objects = dict[str, dict[str, Any]]


def renderer() -> list[str]:
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            return command
    assert not os.environ.get("CI"), "kubectl: not on the PATH; CI needs it or kustomize"
    pytest.skip("neither kubectl nor kustomize is on the PATH")


def render(folder: Path) -> Objects:
    done = subprocess.run([*renderer(), str(folder)], capture_output=True, text=True, check=False)  # noqa: S603 - our own manifests
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    by_kind = {each["kind"]: each for each in objects}
    assert len(by_kind) == len(objects)
    return by_kind


@pytest.fixture(scope="module")
def base() -> Objects:
    return render(DEPLOY / "kubernetes" / "base")


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """The kustomization in docs/operations/deploy.md, which adds both components."""
    deploy = tmp_path_factory.mktemp("deploy")
    shutil.copytree(DEPLOY / "kubernetes", deploy / "kubernetes")
    (text,) = re.findall(
        r"^```yaml\n# deploy/production/kustomization.yaml\n(.*?)^```",
        (OPERATIONS / "deploy.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    (deploy / "production").mkdir()
    (deploy / "production" / "kustomization.yaml").write_text(text)
    return render(deploy / "production")


def with_store(name: str, folder: Path) -> Objects:
    """Render the base with TLS and the component of a store, which comes last."""
    shutil.copytree(DEPLOY / "kubernetes", folder / "kubernetes")
    (folder / "fleet").mkdir()
    (folder / "fleet" / "kustomization.yaml").write_text(
        f"resources: [../kubernetes/base]\ncomponents: [../kubernetes/tls, ../kubernetes/{name}]\n"
    )
    return render(folder / "fleet")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return with_store("redis", tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return with_store("sqlite", tmp_path_factory.mktemp("deploy"))


@pytest.fixture(params=["base", "production", "redis", "sqlite"])
def objects(request: pytest.FixtureRequest) -> Objects:
    found: Objects = request.getfixturevalue(request.param)
    return found


def workload(objects: Objects) -> Any:
    return objects.get("Deployment") or objects["StatefulSet"]


def pod(objects: Objects) -> Any:
    return workload(objects)["spec"]["template"]["spec"]


def container(objects: Objects) -> Any:
    (only,) = pod(objects)["containers"]
    return only


def variables(objects: Objects) -> dict[str, str]:
    (source,) = container(objects)["envFrom"]
    assert source["configMapRef"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    data: dict[str, str] = objects["ConfigMap"]["data"]
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid(objects: Objects, version: str) -> None:
    for kind, each in objects.items():
        if kind not in FOREIGN:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_manifests_have_the_expected_objects(base: Objects, production: Objects) -> None:
    core = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert set(base) == core
    assert set(production) == core | FOREIGN


def test_each_variable_is_a_setting_with_a_valid_value(objects: Objects) -> None:
    values = {name.removeprefix(PREFIX).lower(): value for name, value in variables(objects).items()}
    assert not set(values) - set(Settings.model_fields)
    settings = Settings.model_validate(values)
    assert settings.upstream_url.startswith("https://")


def ports(objects: Objects) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container(objects)["ports"]}


def test_the_ports_agree(objects: Objects) -> None:
    listens = {
        "grpc": variables(objects)["JOBGATEWAY_LISTEN"],
        "metrics": variables(objects)["JOBGATEWAY_ADMIN_LISTEN"],
    }
    assert {name: f"0.0.0.0:{port}" for name, port in ports(objects).items()} == listens
    assert [str(port) for port in ports(objects).values()] == dict(stages(DOCKERFILE.read_text())[-1])["EXPOSE"].split()
    for each in objects["Service"]["spec"]["ports"]:
        assert (each["targetPort"], each["port"]) == (each["name"], ports(objects)[each["name"]])
    allowed = [each["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for each in rule["ports"]]
    assert allowed == list(ports(objects).values())


def test_the_selectors_match_only_the_pods(objects: Objects) -> None:
    labels = {"app.kubernetes.io/name": "jobgateway"}
    template = workload(objects)["spec"]["template"]
    assert template["metadata"]["labels"] == labels
    assert workload(objects)["spec"]["selector"]["matchLabels"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    spread = pod(objects)["topologySpreadConstraints"]
    assert [each["labelSelector"]["matchLabels"] for each in spread] == [labels, labels]
    assert pod(objects)["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]


def test_the_drain_ends_before_the_pod_is_killed(objects: Objects) -> None:
    grace = float(variables(objects)["JOBGATEWAY_DRAIN_GRACE_SECONDS"])
    assert grace == Settings.model_fields["drain_grace_seconds"].default
    before = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # A margin of 5 seconds, because a node may be slow while it is drained.
    assert before + grace + FLUSHES + 5 <= pod(objects)["terminationGracePeriodSeconds"]


def test_the_documented_sidecars_outlive_the_drain(objects: Objects) -> None:
    grace = float(variables(objects)["JOBGATEWAY_DRAIN_GRACE_SECONDS"])
    before = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    page = (OPERATIONS / "shutdown.md").read_text()
    documented = re.findall(r'"terminationDrainDuration": "(\d+)s"|wait-before-exit-seconds: "(\d+)"', page)
    assert len(documented) == 2
    for istio, linkerd in documented:
        assert before + grace + FLUSHES <= int(istio or linkerd) < pod(objects)["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["base", "production", "redis"])
def test_a_rolling_restart_keeps_all_replicas_ready(name: str, request: pytest.FixtureRequest) -> None:
    spec = request.getfixturevalue(name)["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_only_a_shared_store_has_several_replicas(base: Objects, redis: Objects, sqlite: Objects) -> None:
    assert [workload(each)["spec"]["replicas"] for each in (base, sqlite)] == [1, 1]
    # The eviction of one pod leaves another.
    assert redis["Deployment"]["spec"]["replicas"] > redis["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_redis_gets_its_url_and_key_from_a_secret(redis: Objects) -> None:
    (url,) = container(redis)["env"]
    assert url == {
        "name": f"{PREFIX}STATE_URL",
        "valueFrom": {"secretKeyRef": {"name": "jobgateway-state", "key": "url"}},
    }
    volume = next(each for each in pod(redis)["volumes"] if each["name"] == "state")
    mount = next(each for each in container(redis)["volumeMounts"] if each["name"] == "state")
    assert volume["secret"]["secretName"] == "jobgateway-state"
    (item,) = volume["secret"]["items"]
    assert variables(redis)[f"{PREFIX}STATE_KEY_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert {"ports": [{"port": 6379}]} in redis["NetworkPolicy"]["spec"]["egress"]


def test_sqlite_keeps_its_file_on_a_volume(sqlite: Objects) -> None:
    spec = sqlite["StatefulSet"]["spec"]
    assert spec["serviceName"] == sqlite["Service"]["metadata"]["name"]
    (claim,) = spec["volumeClaimTemplates"]
    mount = next(each for each in container(sqlite)["volumeMounts"] if each["name"] == claim["metadata"]["name"])
    file = Path(variables(sqlite)[f"{PREFIX}STATE_URL"].removeprefix("sqlite://"))
    assert file.parent == Path(mount["mountPath"])


def test_the_service_resolves_to_the_ready_pods(objects: Objects) -> None:
    spec = objects["Service"]["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", False)


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def test_the_base_has_grpc_probes(base: Objects) -> None:
    probes = [container(base)[name]["grpc"] for name in PROBES]
    assert {each["port"] for each in probes} == {ports(base)["grpc"]}
    # The overall health, and the health of the service by its name.
    assert [each.get("service", "") for each in probes] == ["", "", gateway.JOB_SERVICE.full_name]
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == "grpc.health.v1.Health"


def test_with_tls_the_probes_use_the_admin_port(production: Objects) -> None:
    # The kubelet's gRPC probes are plaintext.
    for name in PROBES:
        assert "grpc" not in container(production)[name]
    gets = [container(production)[name]["httpGet"] for name in PROBES]
    assert gets == [{"path": path, "port": "metrics"} for path in ("/livez", "/livez", "/readyz")]


def test_plaintext_is_allowed_only_without_tls(base: Objects, production: Objects) -> None:
    files = {f"{PREFIX}TLS_{name}_FILE" for name in ("CERT", "KEY", "CLIENT_CA")}
    assert variables(base)["JOBGATEWAY_ALLOW_PLAINTEXT"] == "true"
    assert not files & set(variables(base))
    assert variables(production)["JOBGATEWAY_ALLOW_PLAINTEXT"] == "false"
    (mount,) = container(production)["volumeMounts"]
    # Not by subPath, because such a file never changes, and certificates do.
    assert mount == {"name": "tls", "mountPath": "/etc/jobgateway/tls", "readOnly": True}
    assert {Path(variables(production)[name]).parent for name in files} == {Path(mount["mountPath"])}
    assert [each["name"] for each in pod(production)["volumes"]] == ["tls"]


def test_the_pod_has_minimal_privileges(objects: Objects) -> None:
    spec, only = pod(objects), container(objects)
    user, group = map(int, dict(stages(DOCKERFILE.read_text())[-1])["USER"].split(":"))
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, user, group)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is objects["ServiceAccount"]["automountServiceAccountToken"] is False
    # Otherwise a Service named jobgateway-x adds variables that are not settings, and the start fails.
    assert spec["enableServiceLinks"] is False
    assert "args" not in only
    assert "command" not in only


def test_the_memory_limit_exceeds_the_memory_budgets(objects: Objects) -> None:
    limit = container(objects)["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    process, watch = measured()
    watches = Settings.model_fields["max_watches"].default * watch
    budgets = sum(size for name, size in vars(gateway).items() if re.fullmatch(r"LARGE_\w+_BYTES", name))
    assert budgets + process + watches < int(limit.removesuffix("Gi")) << 30
    assert "cpu" not in container(objects)["resources"]["limits"]


def measured() -> tuple[int, int]:
    """Return the memory of an idle process and of an idle watch in docs/operations/sizing.md, in bytes."""
    page = (OPERATIONS / "sizing.md").read_text()
    process = re.search(r"^\| an idle process \| (\d+) MB", page, re.MULTILINE)
    watch = re.search(r"^\| an idle watch .*\| (\d+) kB", page, re.MULTILINE)
    assert process
    assert watch
    return int(process[1]) * 1_000_000, int(watch[1]) * 1_000


def test_the_manifest_uses_the_image_of_this_version() -> None:
    manifest = (DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text()
    assert re.findall(r"image: (.*)", manifest) == [f"jobgateway:{__version__}"]
    assert f"--tag jobgateway:{__version__} " in DOCKERFILE.read_text()


def test_the_service_monitor_finds_the_service(production: Objects) -> None:
    monitor, service = production["ServiceMonitor"], production["Service"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert re.fullmatch(r"\d+s", endpoint["interval"])
