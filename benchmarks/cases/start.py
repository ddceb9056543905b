"""The time and CPU from the command to health SERVING, the most expensive imports, and the CPU of short commands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from statistics import median
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.processes import QUIET_GATEWAY, ROOT, Process, process
from benchmarks.table import Row, interleaved

ADDRESS = "127.0.0.1:50951"
# By default, a client waits about a second after its first attempt, which fails because the port is not bound yet.
SOON = [(f"grpc.{which}_reconnect_backoff_ms", 10) for which in ("initial", "min", "max")]
HELP, VERSION = "run --help", "--version"
# Nothing listens there, so that it ends with the report of an error.
CALL = "get 5 --target 127.0.0.1:9"
# An installation has compiled modules, so the first process may write them.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
WITH_TOKEN = os.environ | COMPILED | {"JOBGATEWAY_TOKEN": "any"}
SETTINGS = (
    QUIET_GATEWAY | COMPILED | {"JOBGATEWAY_UPSTREAM_URL": "http://127.0.0.1:9/api", "JOBGATEWAY_LISTEN": ADDRESS}
)
FLOOR = [sys.executable, "-c", "import grpc"]


def run(*, quick: bool) -> list[Row]:
    """Measure the start."""
    _start()
    starts: list[tuple[float, float]] = []

    def cpu_of_a_start() -> float:
        starts.append(_start())
        return starts[-1][1]

    cpu = interleaved(2 if quick else 7, {"serve": cpu_of_a_start, "floor": lambda: _cpu(FLOOR)})
    top = _imports()[:5]
    note = "most expensive imports: " + ", ".join(f"`{name}` {milliseconds:.0f} ms" for name, milliseconds in top)
    return [
        Row("from the command to health SERVING", median(seconds for seconds, _ in starts), "s", 1.0, note=note),
        Row(
            "the same: CPU relative to `import grpc`",
            cpu["serve"] / cpu["floor"],
            "x",
            7.0,
            figures={"ours ms": 1000 * cpu["serve"], "floor ms": 1000 * cpu["floor"]},
        ),
        *_commands(rounds=2 if quick else 15),
    ]


def _commands(rounds: int) -> list[Row]:
    """Measure the start of commands next to the import of the library without which no call is possible."""
    commands = {words: [sys.executable, "-m", "gateway", *words.split()] for words in (HELP, VERSION, CALL)}
    seconds = interleaved(
        rounds,
        {"floor": lambda: _cpu(FLOOR)}
        | {words: lambda command=command: _cpu(command) for words, command in commands.items()},
    )
    limits = {HELP: 1.5, VERSION: 1.8, CALL: 2.6}
    return [
        Row(
            f"`jobgateway {words}`: CPU relative to `import grpc`",
            seconds[words] / seconds["floor"],
            "x",
            limits[words],
            figures={"ours ms": 1000 * seconds[words], "floor ms": 1000 * seconds["floor"]},
        )
        for words in commands
    ]


def _cpu(command: list[str]) -> float:
    """Return the CPU seconds of a process."""
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=WITH_TOKEN)
    _, _, usage = os.wait4(started.pid, 0)
    # So that it is not waited for again.
    started.returncode = 0
    return usage.ru_utime + usage.ru_stime


def _start() -> tuple[float, float]:
    """Return the seconds and the CPU seconds of a start."""
    start = time.perf_counter()
    with process("gateway", "serve", environment=SETTINGS) as server, grpc.insecure_channel(ADDRESS, SOON) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        response = health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=30)
        assert isinstance(server, Process)
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"health: not SERVING (got {response.status})")
        return time.perf_counter() - start, server.cpu()


def _imports() -> list[tuple[str, float]]:
    """Return the imported packages with the milliseconds of each import, the most expensive first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It ends at the last step of its start, because it cannot listen.
        environment = os.environ | SETTINGS | {"JOBGATEWAY_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}"}
        command = [sys.executable, "-X", "importtime", "-m", "gateway", "serve"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    milliseconds: dict[str, float] = {}
    for line in lines[1:]:
        _, cumulative, name = line.split("|")
        package = name.strip().split(".")[0]
        # The cumulative time of a package is that of its most expensive module.
        if package != "gateway":
            milliseconds[package] = max(milliseconds.get(package, 0.0), float(cumulative) / 1000)
    return sorted(milliseconds.items(), key=lambda item: -item[1])
