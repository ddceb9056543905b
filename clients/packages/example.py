"""The example of a package: a few lines that send a job, watch it and print, run as a user would."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clients.runner.gateways import GatewayProcess
from clients.runner.scenarios import CLIENTS
from gateway.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clients.runner.languages import Language

FOLDER = "example"
ADDRESS = "127.0.0.1:50051"
"""The address in the examples, which is that of `jobgateway demo`."""

TOKEN = "demo-token"  # noqa: S105 - that of the demo
_PROGRESS = re.compile(r"^[\d.]+% Step \d of \d$", re.MULTILINE)
_END = re.compile(r'^JOB_STATUS_SUCCESS \{"data": ?\{"sum": ?3\}\}$')


@asynccontextmanager
async def servers() -> AsyncIterator[str]:
    """Run a simulator and a gateway, and yield the address of the gateway."""
    simulator = Simulator(tokens=frozenset({TOKEN}))
    await simulator.start("127.0.0.1", 0)
    gateway = GatewayProcess(simulator.url, {})
    try:
        await gateway.start()
        yield "{}:{}".format(*gateway.address)
    finally:
        await gateway.kill()
        await simulator.stop()


async def run(language: Language, commands: list[str], target: str) -> list[str]:
    """Install the artifact in an empty folder and run the example against `target`; return the problems.

    Raises:
        CommandFailed: A command failed.

    """
    with tempfile.TemporaryDirectory(prefix="jobgateway-example-") as folder:
        consumer = Path(folder) / FOLDER
        ignored = shutil.ignore_patterns("node_modules", "target", "build", "*.sum", "*.lock")
        shutil.copytree(language.folder / FOLDER, consumer, ignore=ignored)
        _redirect(consumer, target)
        variables = {"PACKAGE": str(language.folder), "ROOT": str(CLIENTS.parent)}
        output = ""
        for command in commands:
            output = await language.shell(command, folder=consumer, variables=variables)
    return list(problems(output))


def problems(output: str) -> Iterator[str]:
    """Yield what is missing in the output of an example."""
    if not _PROGRESS.search(output):
        yield f"the example prints no progress: {output!r}"
    if not _END.match(output.rstrip().rpartition("\n")[2]):
        yield f"the last line is not the end of the job: {output!r}"


def _redirect(folder: Path, target: str) -> None:
    found = [path for path in folder.rglob("*") if path.is_file() and ADDRESS in path.read_text()]
    if not found:
        raise RuntimeError(f"no file of {folder} has the address {ADDRESS}")
    for path in found:
        path.write_text(path.read_text().replace(ADDRESS, target))
