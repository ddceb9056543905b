"""Read the Compose files with the parser of Docker Compose, and compare them with the manifests and the code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gateway import __version__
from gateway.config import PREFIX, Settings
from gateway.server import defaults
from tests.support.gateways import running
from tests.support.image import DOCKERFILE, stages
from tests.support.manifests import DEPLOY, KUBERNETES, tool
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from gateway.simulator import Simulator

COMPOSE = DEPLOY / "compose"
PARSER = ROOT / "tests" / "support" / "compose"
TLS = "compose.yaml:compose.tls.yaml"


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`docker compose config`, from the library of Docker Compose, because there is no Docker here."""
    program = tmp_path_factory.mktemp("compose") / "config"
    done = subprocess.run(  # noqa: S603 - our own program
        [*tool(["go"]), "build", "-o", str(program), "."], cwd=PARSER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


def config(parser: Path, folder: Path, **environment: str) -> Any:
    """Return the project that Compose would run, with all profiles."""
    shutil.copytree(COMPOSE, folder, dirs_exist_ok=True)
    done = subprocess.run(  # noqa: S603 - our own program
        [str(parser)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=["compose.yaml", TLS])
def project(request: pytest.FixtureRequest, parser: Path, tmp_path: Path) -> Any:
    return config(parser, tmp_path, COMPOSE_FILE=request.param)


def settings(project: Any) -> Settings:
    environment = project["services"]["gateway"]["environment"]
    return Settings.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in environment.items()})


def published(service: Any) -> set[tuple[str, str, int]]:
    return {(each.get("host_ip", "any"), each["published"], each["target"]) for each in service["ports"]}


@pytest.mark.tools
def test_plaintext_is_published_for_this_machine_only(parser: Path, tmp_path: Path) -> None:
    project = config(parser, tmp_path)
    assert settings(project).allow_plaintext
    local = {("127.0.0.1", "50051", 50051), ("127.0.0.1", "9464", 9464)}
    assert published(project["services"]["gateway"]) == local
    assert published(project["services"]["prometheus"]) == {("127.0.0.1", "9090", 9090)}


@pytest.mark.tools
def test_others_need_tls_and_a_certificate(parser: Path, tmp_path: Path) -> None:
    project = config(parser, tmp_path, COMPOSE_FILE=TLS)
    given = settings(project)
    assert not given.allow_plaintext
    assert published(project["services"]["gateway"]) == {("any", "50051", 50051), ("127.0.0.1", "9464", 9464)}
    (mount,) = (each for each in project["services"]["gateway"]["volumes"] if each["type"] == "bind")
    # A folder, because a file that is mounted alone keeps its content after a rotation.
    assert mount["target"] == "/etc/jobgateway/tls"
    assert mount["read_only"]
    # Otherwise, Docker makes an empty folder if it is missing.
    assert mount["bind"]["create_host_path"] is False
    files = [given.tls_cert_file, given.tls_key_file, given.tls_client_ca_file]
    assert files == [Path(mount["target"], name) for name in ("tls.crt", "tls.key", "ca.crt")]


@pytest.mark.tools
def test_the_ports_are_those_of_the_gateway(project: Any) -> None:
    given = settings(project)
    assert {f"0.0.0.0:{port}" for _, _, port in published(project["services"]["gateway"])} == {
        given.listen,
        given.admin_listen,
    }


@pytest.mark.tools
def test_the_store_is_on_a_volume_of_the_user(project: Any) -> None:
    (volume,) = (each for each in project["services"]["gateway"]["volumes"] if each["type"] == "volume")
    assert Path(settings(project).state_url.removeprefix("sqlite://")).parent == Path(volume["target"])
    assert volume["source"] in project["volumes"]
    # A new volume is a copy of this folder of the image, with its owner.
    last = dict(stages(DOCKERFILE.read_text())[-1])
    user, group = last["USER"].split(":")
    assert last["RUN"] == f"install --directory --owner={user} --group={group} --mode=0700 {volume['target']}"


@pytest.mark.tools
def test_docker_waits_for_the_drain(project: Any) -> None:
    grace = settings(project).drain_grace_seconds
    assert grace == Settings.model_fields["drain_grace_seconds"].default
    seconds = int(project["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace + 3 * defaults.FLUSH_RESPONSES_SECONDS + 5 <= seconds


@pytest.mark.tools
@pytest.mark.parametrize("service", ["gateway", "prometheus"])
def test_each_service_has_minimal_privileges_and_limits(project: Any, service: str) -> None:
    found = project["services"][service]
    assert found["read_only"]
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(found)
    assert found["restart"] == "unless-stopped"
    assert found["logging"]["options"]["max-size"]
    assert int(found["deploy"]["resources"]["limits"]["memory"]) >= 1 << 30


@pytest.mark.tools
def test_the_memory_is_that_of_the_deployment(project: Any) -> None:
    deployment = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    limits = project["services"]["gateway"]["deploy"]["resources"]["limits"]
    assert f"{int(limits['memory']) >> 30}Gi" == only["resources"]["limits"]["memory"]
    # A process uses one core, and throttling delays heartbeats.
    assert "cpus" not in limits


@pytest.mark.tools
def test_the_image_is_of_this_version_or_by_digest(parser: Path, tmp_path: Path) -> None:
    assert config(parser, tmp_path)["services"]["gateway"]["image"] == f"jobgateway:{__version__}"
    (tmp_path / ".env").write_text((COMPOSE / "example.env").read_text())
    project = config(parser, tmp_path)
    # A placeholder, which Docker rejects as an invalid reference.
    assert project["services"]["gateway"]["image"] == "example.com/jobgateway@sha256:DIGEST"
    assert not settings(project).allow_plaintext


@pytest.mark.tools
async def test_the_health_check_follows_readiness(parser: Path, tmp_path: Path, simulator: Simulator) -> None:
    health = config(parser, tmp_path)["services"]["gateway"]["healthcheck"]
    kind, *command = health["test"]
    assert (kind, command[0]) == ("CMD", "python")
    # Not `/livez`, which a gateway that drains answers too.
    assert "/readyz" in command[-1]

    def check(address: str) -> int:
        here = [sys.executable, *(each.replace("127.0.0.1:9464", address) for each in command[1:])]
        return subprocess.run(here, capture_output=True, check=False).returncode  # noqa: S603 - our own command

    async with running(simulator.url) as gateway:
        address = gateway.admin_address
        assert await asyncio.to_thread(check, address) == 0
    assert await asyncio.to_thread(check, address) != 0


@pytest.mark.tools
def test_prometheus_reads_the_gateway_and_the_alerts(project: Any) -> None:
    service = project["services"]["prometheus"]
    mounts = {each["target"]: Path(each["source"]).name for each in service["volumes"] if each["type"] == "bind"}
    given = yaml.safe_load((COMPOSE / mounts["/etc/prometheus/prometheus.yaml"]).read_text())
    assert "--config.file=/etc/prometheus/prometheus.yaml" in service["command"]
    (rules,) = given["rule_files"]
    assert yaml.safe_load((COMPOSE / mounts[rules]).read_text())["groups"]
    (scrape,) = given["scrape_configs"]
    admin = project["services"]["gateway"]["environment"]["JOBGATEWAY_ADMIN_LISTEN"]
    assert scrape["static_configs"] == [{"targets": [admin.replace("0.0.0.0", "gateway")]}]  # noqa: S104 - an expected value
    # The alerts select this job.
    assert scrape["job_name"] == "jobgateway"


def test_the_alerts_are_those_of_the_operator() -> None:
    rule = yaml.safe_load((KUBERNETES / "monitoring" / "prometheusrule.yaml").read_text())
    assert yaml.safe_load((COMPOSE / "alerts.yaml").read_text()) == rule["spec"]


def test_the_services_mount_only_files_that_exist() -> None:
    project = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    mounts = [each for service in project["services"].values() for each in service["volumes"]]
    sources = [each["source"] for each in mounts if each["type"] == "bind"]
    assert all((COMPOSE / each).is_file() for each in sources)
    assert re.search(r"^tls/$", (COMPOSE / ".gitignore").read_text(), re.MULTILINE)
