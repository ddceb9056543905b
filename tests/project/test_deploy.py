"""Render the manifests in deploy/kubernetes like an operator, and compare them with the schemas and the code."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import kubernetes_validate
import pytest
from grpc_health.v1 import health_pb2

from gateway import __version__
from gateway.config import PREFIX, Settings
from gateway.server import defaults, gateway
from tests.support.image import DOCKERFILE, stages
from tests.support.manifests import (
    FOREIGN,
    KUBERNETES,
    Objects,
    container,
    kustomize,
    pod,
    ports,
    render,
    variables,
    with_components,
    workload,
)
from tests.support.paths import ROOT

pytestmark = pytest.mark.tools

OPERATIONS = ROOT / "docs" / "operations"
PAGE = (OPERATIONS / "deploy.md").read_text()
# The first version with `preStop.sleep` without a feature gate, and the latest one whose schemas are installed.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# The time after the grace, in three equal parts: the stop of grpc, the ended calls, and the submissions.
FLUSHES = 3 * defaults.FLUSH_RESPONSES_SECONDS


@pytest.fixture(scope="module")
def base() -> Objects:
    return render(KUBERNETES / "base")


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """The kustomization in docs/operations/deploy.md."""
    return kustomize(tmp_path_factory.mktemp("deploy"), documented("deploy/production/kustomization.yaml"))


def documented(name: str) -> str:
    """Return the block of docs/operations/deploy.md that begins with the name of a file."""
    (text,) = re.findall(rf"^```yaml\n# {name}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return with_components(tmp_path_factory.mktemp("deploy"), "tls", "redis")


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return with_components(tmp_path_factory.mktemp("deploy"), "tls", "sqlite")


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return with_components(
        tmp_path_factory.mktemp("deploy"), "namespace", "tls", "cert-manager", "redis", "autoscaling"
    )


@pytest.fixture(params=["base", "production", "redis", "sqlite", "scaled"])
def objects(request: pytest.FixtureRequest) -> Objects:
    found: Objects = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid(objects: Objects, version: str) -> None:
    for each in objects.values():
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_manifests_have_the_expected_objects(base: Objects, production: Objects, scaled: Objects) -> None:
    core = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert set(base) == core
    assert set(production) == core | {"Namespace", "ServiceMonitor", "PrometheusRule"}
    authority = {"Certificate/jobgateway-ca", "Issuer/jobgateway-ca", "Issuer/jobgateway-self-signed"}
    assert set(scaled) == core | authority | {"Namespace", "HorizontalPodAutoscaler", "Certificate"}


def test_each_variable_is_a_setting_with_a_valid_value(objects: Objects) -> None:
    values = {name.removeprefix(PREFIX).lower(): value for name, value in variables(objects).items()}
    assert not set(values) - set(Settings.model_fields)
    settings = Settings.model_validate(values)
    assert settings.upstream_url.startswith("https://")


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
    for each in pod(objects).get("topologySpreadConstraints", []):
        assert each["labelSelector"]["matchLabels"] == labels
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


def test_replicas_are_spread_without_those_that_leave(base: Objects, sqlite: Objects) -> None:
    spread = pod(base)["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    # Pods of a StatefulSet do not have this label.
    assert [each["matchLabelKeys"] for each in spread] == [["pod-template-hash"]] * 2
    assert "topologySpreadConstraints" not in pod(sqlite)


def test_old_replicas_stay_until_dns_has_the_new_ones(objects: Objects) -> None:
    # The longest that the DNS of Kubernetes is cached by default, and that gRPC keeps a resolved name.
    assert workload(objects)["spec"]["minReadySeconds"] >= 30


@pytest.mark.parametrize("name", ["base", "production", "redis"])
def test_a_rolling_restart_keeps_all_replicas_ready(name: str, request: pytest.FixtureRequest) -> None:
    spec = request.getfixturevalue(name)["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_only_a_shared_store_has_several_replicas(base: Objects, redis: Objects, sqlite: Objects) -> None:
    assert [workload(each)["spec"]["replicas"] for each in (base, sqlite)] == [1, 1]
    # The eviction of one pod leaves another.
    assert redis["Deployment"]["spec"]["replicas"] > redis["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_the_autoscaler_sets_the_replicas_by_cpu(scaled: Objects) -> None:
    spec = scaled["HorizontalPodAutoscaler"]["spec"]
    target = spec["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", scaled["Deployment"]["metadata"]["name"])
    # Otherwise, each apply of the Deployment sets the number back.
    assert "replicas" not in scaled["Deployment"]["spec"]
    assert spec["minReplicas"] > scaled["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    (metric,) = spec["metrics"]
    assert metric["containerResource"]["container"] == container(scaled)["name"]
    # The request is what a replica may use before another one is added.
    cpu = container(scaled)["resources"]["requests"]["cpu"]
    assert metric["containerResource"]["target"] == {"type": "AverageValue", "averageValue": cpu}


def test_the_autoscaler_removes_one_replica_per_drain(scaled: Objects) -> None:
    down = scaled["HorizontalPodAutoscaler"]["spec"]["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    # The watches of one replica have resumed elsewhere before the next one drains.
    assert policy["periodSeconds"] > pod(scaled)["terminationGracePeriodSeconds"] + 60
    assert down["stabilizationWindowSeconds"] > policy["periodSeconds"]


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
    assert {"ports": [{"port": 6379, "protocol": "TCP"}]} in redis["NetworkPolicy"]["spec"]["egress"]


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


# The volumes that the restricted standard admits.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def test_the_namespace_admits_only_restricted_pods(production: Objects) -> None:
    labels = production["Namespace"]["metadata"]["labels"]
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    assert modes.items() <= labels.items()
    # kustomize has renamed it with the namespace of the other objects.
    names = {each["metadata"].get("namespace") for each in production.values()} - {None}
    assert names == {production["Namespace"]["metadata"]["name"]}


def test_the_pod_passes_the_restricted_standard(objects: Objects) -> None:
    """Every rule of it that a pod without init containers can break."""
    spec, security = pod(objects), container(objects)["securityContext"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert not any("hostPort" in each for each in container(objects)["ports"])
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= VOLUMES
    assert set(spec["securityContext"]) == {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"}
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] != 0
    assert spec["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["allowPrivilegeEscalation"] is False
    assert not {"privileged", "procMount", "seLinuxOptions", "windowsOptions"} & set(security)


def reaches(objects: Objects, address: str, port: int, protocol: str = "TCP") -> bool:
    """Return True if the policy lets the pod out to this address, which is not that of a selected pod."""
    target = ipaddress.ip_address(address)

    def within(networks: list[str]) -> bool:
        found = map(ipaddress.ip_network, networks)
        return any(target in each for each in found if each.version == target.version)

    for rule in objects["NetworkPolicy"]["spec"]["egress"]:
        if {"port": port, "protocol": protocol} not in rule["ports"]:
            continue
        blocks = [each["ipBlock"] for each in rule["to"] if "ipBlock" in each]
        if any(within([each["cidr"]]) and not within(each.get("except", [])) for each in blocks):
            return True
    return False


# Addresses of DNS Services and of the node-local cache.
@pytest.mark.parametrize("address", ["169.254.20.10", "10.96.0.10", "172.20.0.10", "192.168.0.10", "fd00::a"])
def test_the_pod_reaches_dns_and_its_caches(base: Objects, address: str) -> None:
    assert reaches(base, address, 53, "UDP")
    assert reaches(base, address, 53)
    dns = base["NetworkPolicy"]["spec"]["egress"][0]
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    assert selector in dns["to"]


# The Kubernetes API server, other pods, metadata services, and DNS servers outside of the cluster.
@pytest.mark.parametrize(
    ("address", "port"),
    [
        *[(each, 443) for each in ("10.96.0.1", "172.20.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "fe80::1")],
        ("169.254.169.254", 443),
        ("169.254.169.254", 80),
        ("fd00:ec2::254", 443),
        ("10.0.0.1", 6443),
        ("8.8.8.8", 53),
    ],
)
def test_the_pod_reaches_nothing_else_in_private(base: Objects, address: str, port: int) -> None:
    assert not reaches(base, address, port)


def test_the_pod_reaches_an_upstream(base: Objects, tmp_path: Path) -> None:
    assert reaches(base, "203.0.113.1", 443)
    assert reaches(base, "2001:db8::1", 443)
    private = documented("deploy/production/upstream.yaml")
    (tmp_path / "production").mkdir()
    (tmp_path / "production" / "upstream.yaml").write_text(private)
    text = documented("deploy/production/kustomization.yaml") + documented("the same file, for a private upstream")
    objects = kustomize(tmp_path, text)
    assert reaches(objects, "10.1.2.3", 443)
    assert not reaches(objects, "10.96.0.1", 443)
    assert not reaches(objects, "203.0.113.1", 443)


def test_the_memory_exceeds_the_memory_budgets(objects: Objects) -> None:
    limit = container(objects)["resources"]["limits"]["memory"]
    # A node that runs out of memory ends pods above their request first, and without a drain.
    assert container(objects)["resources"]["requests"]["memory"] == limit
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
    manifest = (KUBERNETES / "base" / "deployment.yaml").read_text()
    assert re.findall(r"image: (.*)", manifest) == [f"jobgateway:{__version__}"]
    assert f"--tag jobgateway:{__version__} " in DOCKERFILE.read_text()


def test_the_service_monitor_finds_the_service(production: Objects) -> None:
    monitor, service = production["ServiceMonitor"], production["Service"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    # The alerts select this job.
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "jobgateway"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert re.fullmatch(r"\d+s", endpoint["interval"])


def test_the_documented_image_has_a_digest(production: Objects) -> None:
    # A placeholder: Kubernetes rejects it as InvalidImageName, and pulls nothing.
    assert container(production)["image"] == "example.com/jobgateway@sha256:DIGEST"


def test_cert_manager_makes_the_mounted_secret(scaled: Objects) -> None:
    spec = scaled["Certificate"]["spec"]
    (volume,) = (each for each in pod(scaled)["volumes"] if each["name"] == "tls")
    assert spec["secretName"] == volume["secret"]["secretName"]
    # The keys of the Secrets that cert-manager makes.
    files = [variables(scaled)[f"{PREFIX}TLS_{name}_FILE"] for name in ("CERT", "KEY", "CLIENT_CA")]
    assert [Path(each).name for each in files] == ["tls.crt", "tls.key", "ca.crt"]
    # The name in the target of docs/operations/load-balancing.md, and a key that gRPC clients support.
    assert f"{scaled['Service']['metadata']['name']}.jobgateway.svc.cluster.local" in spec["dnsNames"]
    assert (spec["privateKey"]["algorithm"], spec["privateKey"]["size"]) == ("ECDSA", 256)
    issuer, authority = scaled["Issuer/jobgateway-ca"], scaled["Certificate/jobgateway-ca"]
    assert spec["issuerRef"]["name"] == issuer["metadata"]["name"]
    assert issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"]
    assert authority["spec"]["issuerRef"]["name"] == scaled["Issuer/jobgateway-self-signed"]["metadata"]["name"]
    assert authority["spec"]["isCA"]
    assert authority["spec"]["privateKey"]["rotationPolicy"] == "Never"
