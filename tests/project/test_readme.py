"""Run the commands of the README and the quickstart like a new user, on free ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT
from tests.support.raw import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
CLIENT = (ROOT / "clients" / "python" / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """The port of the README, and a free one to use instead."""
    return {"50051": str(free_port())}


@pytest.fixture(scope="module")
def environment(ports: dict[str, str]) -> dict[str, str]:
    return os.environ | {
        "JOBGATEWAY_TARGET": f"127.0.0.1:{ports['50051']}",
    }


def adapted(text: str, ports: dict[str, str]) -> str:
    for port, free in ports.items():
        text = text.replace(port, free)
    text = text.replace("jobgateway dev", f"jobgateway dev --listen 127.0.0.1:{ports['50051']}")
    return text.replace(".venv/bin/", f"{BIN}/")


@pytest.fixture(scope="module")
def servers(ports: dict[str, str], environment: dict[str, str]) -> Iterator[None]:
    """Start the servers of the first block."""
    script = adapted(blocks("sh")[0], ports)
    with subprocess.Popen(  # noqa: S603 - the README's own commands
        ["/bin/sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while "jobgateway run" not in (line := process.stdout.readline()):
            assert line, "the servers ended"
        yield
        os.killpg(process.pid, signal.SIGKILL)


def output(command: list[str], environment: dict[str, str], text: str | None = None) -> str:
    done = subprocess.run(  # noqa: S603 - the pages' own commands
        command, env=environment, input=text, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("servers")
def test_the_command_line(ports: dict[str, str], environment: dict[str, str]) -> None:
    printed = output(["/bin/sh", "-c", adapted(blocks("sh")[1], ports)], environment)
    assert json.loads(printed) == {"data": {"sum": 3}}


@pytest.mark.tools
@pytest.mark.usefixtures("servers")
def test_grpcurl(ports: dict[str, str], environment: dict[str, str]) -> None:
    if not shutil.which("grpcurl"):
        assert not os.environ.get("CI"), "grpcurl: not on the PATH; CI runs every command of the README"
        pytest.skip("grpcurl is not on the PATH")
    printed = output(["/bin/sh", "-c", adapted(blocks("sh")[2], ports)], environment)
    assert '"status": "JOB_STATUS_SUCCESS"' in printed
    assert '"percentage"' in printed


@pytest.mark.usefixtures("servers")
def test_python(ports: dict[str, str], environment: dict[str, str]) -> None:
    printed = output([sys.executable, "-"], environment, adapted(blocks("python")[0], ports)).splitlines()
    assert "Step 2 of 4" in printed
    assert json.loads(printed[-1]) == {"data": {"sum": 3}}


@pytest.mark.usefixtures("servers")
def test_the_quickstart_watches_a_job_to_its_end(ports: dict[str, str], environment: dict[str, str]) -> None:
    script = adapted(blocks("python", QUICKSTART)[0], ports)
    printed = output([sys.executable, "-"], environment, script).splitlines()
    assert printed[0].startswith("job ")
    assert printed[-1].startswith("JOB_STATUS_SUCCESS")


@pytest.mark.usefixtures("servers")
def test_the_ten_lines_of_the_client_run(ports: dict[str, str], environment: dict[str, str]) -> None:
    example = blocks("python", CLIENT)[0]
    assert len(example.splitlines()) <= 10
    printed = output([sys.executable, "-"], environment, adapted(example, ports)).splitlines()
    assert printed[-1].startswith("JOB_STATUS_SUCCESS {")


def test_every_block_is_tested() -> None:
    assert (len(blocks("sh")), len(blocks("python")), README.count("```")) == (3, 1, 8)
    assert blocks("sh", QUICKSTART) == blocks("sh")[:2]
    assert (len(blocks("python", QUICKSTART)), QUICKSTART.count("```")) == (1, 6)
    workflow = (ROOT / ".ci" / "run").read_text()
    for command in re.findall(r"^    (make \w+)", README, re.MULTILINE):
        assert command in workflow
