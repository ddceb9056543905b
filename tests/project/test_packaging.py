"""Check the two wheels, and the image that the Dockerfile builds from them, outside the repository."""

from __future__ import annotations

import configparser
import json
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import jobgateway_client
import pytest

from gateway.config import Settings
from tests.support.image import DOCKERFILE, BuiltImage, in_context, stages
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INFO = f"jobgateway-{PROJECT['version']}.dist-info"
MANUAL = f"jobgateway-{PROJECT['version']}.data/data/share/man/man1"
STATUS_PAGE = "gateway/server/status_page"
CLIENT = ROOT / "clients" / "python"
CLIENT_PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]


def built(source: Path, folder: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)  # noqa: S603 - our own wheel
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the gateway, built from this tree."""
    return built(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the Python client, built from this tree."""
    return built(CLIENT, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="session")
def image(wheel: Path, client_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """The result of the Dockerfile's build stage with these wheels."""
    return BuiltImage(tmp_path_factory.mktemp("image"), [wheel, client_wheel])


def sources(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_gateway_its_manual_and_nothing_else(wheel: Path) -> None:
    packages = sources(ROOT / "gateway")
    manual = {f"{MANUAL}/{each.name}" for each in (ROOT / "docs" / "reference" / "man").iterdir()}
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == packages | about | manual
    assert f"{MANUAL}/jobgateway.1" in manual
    # The modules of the gateway are no interface, so it has no types for others.
    others = {name for name in packages if not name.endswith(".py")}
    assert {str(Path(name).parent) for name in others} == {STATUS_PAGE, f"{STATUS_PAGE}/templates"}
    assert {Path(name).suffix for name in others} == {".css", ".html", ".js", ".md"}


def test_the_wheel_has_the_runbook_of_its_version(wheel: Path) -> None:
    runbook = (ROOT / "docs" / "operations" / "alerts.md").read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{STATUS_PAGE}/runbook.md") == runbook


def test_the_client_wheel_has_the_contract_and_the_types(client_wheel: Path) -> None:
    packages = sources(CLIENT / "src" / "jobgateway_client") | sources(ROOT / "generated" / "jobgateway")
    info = f"jobgateway_client-{CLIENT_PROJECT['version']}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    with zipfile.ZipFile(client_wheel) as archive:
        assert set(archive.namelist()) == packages | about
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    typed = {name for name in packages if name.endswith("py.typed")}
    assert typed == {"jobgateway/v1/py.typed", "jobgateway_client/py.typed"}


def test_both_wheels_have_one_version() -> None:
    assert CLIENT_PROJECT["version"] == jobgateway_client.__version__ == PROJECT["version"]
    assert f"jobgateway-client=={PROJECT['version']}" in PROJECT["dependencies"]
    manifest = (CLIENT / "client.json").read_text()
    assert f"jobgateway_client-{PROJECT['version']}-py3" in manifest


def test_the_client_needs_only_grpc_and_protobuf() -> None:
    names = {re.split(r"[<>=]", each)[0] for each in CLIENT_PROJECT["dependencies"]}
    assert names == {"grpcio", "protobuf"}
    for each in CLIENT_PROJECT["dependencies"]:
        assert each in PROJECT["dependencies"]


def test_the_client_imports_only_what_it_requires() -> None:
    program = "import sys, jobgateway_client; print('google.rpc' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)  # noqa: S603
    assert found.stdout == "False\n"


def test_the_metadata_of_the_wheel_matches_the_project(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"{INFO}/METADATA").decode())
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(f"{INFO}/entry_points.txt").decode())
        assert archive.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (metadata["Name"], metadata["Version"]) == ("jobgateway", PROJECT["version"])
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (PROJECT["requires-python"], "Apache-2.0")
    extras = [each for every in PROJECT["optional-dependencies"].values() for each in every]
    assert len(metadata.get_all("Requires-Dist", [])) == len(PROJECT["dependencies"]) + len(extras)
    assert dict(entry_points["console_scripts"]) == PROJECT["scripts"]


@contextmanager
def process(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(  # noqa: S603 - our own command
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def files(*folders: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.mark.slow
def test_the_image_runs_a_job_and_writes_no_file(image: BuiltImage, tmp_path: Path) -> None:
    environment = image.environment | {
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "JOBGATEWAY_LISTEN": "127.0.0.1:0",
        **({"JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0"} if "admin_listen" in Settings.model_fields else {}),
    }
    before = files(image.installed, tmp_path)
    simulate = [image.executable(), "simulate", "--listen", "127.0.0.1:0"]
    with process(simulate, tmp_path, image.environment) as simulator:
        assert simulator.stdout is not None
        url = simulator.stdout.readline().removeprefix("The simulator listens: ").strip()
        serve = [image.executable(), *image.command]
        with process(serve, tmp_path, environment | {"JOBGATEWAY_UPSTREAM_URL": url}) as server:
            assert server.stderr is not None
            serving = next(line for line in map(json.loads, server.stderr) if line["event"] == "serving")
            assert serving["version"] == PROJECT["version"]
            for path in ("", "statusz", "runbook"):
                assert httpx.get(f"http://{serving['admin_address']}/{path}", trust_env=False).status_code == 200
            run = [
                "run",
                "--workspace",
                "1",
                "--entity",
                "7",
                "--method",
                "succeed",
                "--param",
                "duration=0.1",
                "-o",
                "json",
            ]
            client = {"JOBGATEWAY_TARGET": serving["address"], "JOBGATEWAY_TOKEN": "demo-token"}
            done = subprocess.run(  # noqa: S603 - our own command
                [image.executable(), *run], cwd=tmp_path, env=image.environment | client, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout.splitlines()[-1])
            server.send_signal(signal.SIGTERM)
            _, rest = server.communicate()
            assert server.returncode == 0
            lines = [json.loads(line) for line in rest.splitlines()]
            assert {line["level"] for line in lines} == {"info"}
            assert [line["event"] for line in lines][-2:] == ["drain.started", "process.stopped"]
    assert files(image.installed, tmp_path) == before


@pytest.mark.slow
def test_the_image_is_compiled_and_has_no_pip(image: BuiltImage) -> None:
    (packages,) = image.installed.glob("lib/python3*/site-packages")
    for source in (packages / "gateway").rglob("*.py"):
        assert list(source.parent.glob(f"__pycache__/{source.stem}.*.pyc")), source
    assert not (packages / "pip").exists()


def test_the_dockerfile_is_clean_for_hadolint() -> None:
    hadolint = [str(Path(sys.executable).parent / "hadolint"), str(DOCKERFILE)]
    done = subprocess.run(hadolint, capture_output=True, text=True, check=False)  # noqa: S603 - a tool of the lock
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_a_user_a_command_and_the_default_port() -> None:
    build, last = stages(DOCKERFILE.read_text())
    instructions = dict(last)
    assert build[0].argument.removesuffix(" AS build") == instructions["FROM"] == "${PYTHON_IMAGE}"
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", instructions["USER"])
    assert json.loads(instructions["ENTRYPOINT"]) + json.loads(instructions["CMD"]) == ["jobgateway", "serve"]
    assert (instructions["STOPSIGNAL"], instructions["HEALTHCHECK"]) == ("SIGTERM", "NONE")
    assert instructions["COPY"] == "--from=build /opt/jobgateway /opt/jobgateway"
    assert instructions["RUN"].split()[-4:-1] == ["--owner=65532", "--group=65532", "--mode=0700"]
    port = Settings.model_fields["listen"].default.rpartition(":")[2]
    assert port in instructions["EXPOSE"].split()


def test_the_base_image_has_a_tag_and_no_host() -> None:
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", default)


def test_the_build_context_has_only_the_lock_and_the_wheel() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607 - git
    assert [name for name in tracked.splitlines() if in_context(name)] == ["requirements.lock"]
    assert in_context("dist/jobgateway-0.1.0-py3-none-any.whl")
    assert in_context("dist/jobgateway_client-0.1.0-py3-none-any.whl")
    assert not in_context("dist/other.whl")
