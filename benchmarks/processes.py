"""The processes of a benchmark, with their use of CPU and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
# The gateway with `longest_pause`, which takes about 2 percent of a core, and the plain command.
WITH_PAUSES, SERVE = "benchmarks.servers.gateway", "gateway serve"
QUIET_GATEWAY = {
    "JOBGATEWAY_LISTEN": "127.0.0.1:0",
    "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
    "JOBGATEWAY_MAX_WATCHES": "50000",
    "JOBGATEWAY_MAX_CALLS": "50000",
}


class Pause(NamedTuple):
    """A pause of an event loop in milliseconds: as it passed, and in CPU time of its thread."""

    ms: float
    cpu_ms: float


class Process:
    """A Python module that runs as a process."""

    def __init__(self, module: str, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self._pauses = Path(tempfile.mkdtemp()) / "pauses"
        self._log = (self._pauses.parent / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=os.environ | {"BENCHMARK_PAUSES": str(self._pauses)} | (environment or {}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._measured = psutil.Process(self._process.pid)

    def next_line(self) -> str:
        """Return the next line on standard output.

        Raises:
            RuntimeError: The process ended; the message has the end of its log.

        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended: {self.log()[-2_000:]}")
        return line

    def ask(self, line: str) -> str:
        """Write a line to standard input, and return the line that the process prints."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.next_line()

    def log(self) -> str:
        """Return the log so far (standard error)."""
        return (self._pauses.parent / "log").read_text()

    def log_line_with(self, text: str) -> str:
        """Wait for a log line with `text`, and return it.

        Raises:
            RuntimeError: The process ended; the message has the end of its log.

        """
        while self.running:
            for line in self.log().splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            time.sleep(0.01)
        raise RuntimeError(f"{self._process.args!r} ended: {self.log()[-2_000:]}")

    def output(self) -> str:
        """Wait for the end of the process, and return its standard output.

        Raises:
            RuntimeError: The process failed; the message has the end of its log.

        """
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"{self._process.args!r} failed: {self.log()[-2_000:]}")
        return output

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._process.poll() is None

    def cpu(self) -> float:
        """Return the CPU time of the process so far, in seconds."""
        times = self._measured.cpu_times()
        return times.user + times.system

    def event_loop_cpu(self) -> float:
        """Return the CPU time of the main thread so far, which runs the event loop, in seconds."""
        nanoseconds, _, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(nanoseconds) / 1e9

    def memory(self) -> int:
        """Return the resident memory of the process, in bytes."""
        return int(self._measured.memory_info().rss)

    def peak_memory(self) -> int:
        """Return the peak of the resident memory of the process, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    def longest_pause(self) -> Pause:
        """Return the longest pause of the event loop since the last call (`benchmarks/pauses.py`)."""
        self._pauses.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR2)
        while not self._pauses.exists():
            time.sleep(0.01)
        seconds, cpu_seconds = map(float, self._pauses.read_text().split())
        return Pause(seconds * 1000, cpu_seconds * 1000)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@contextmanager
def process(module: str, *arguments: object, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Run a module as a process, and kill it when the context is left."""
    started = Process(module, *arguments, environment=environment)
    try:
        yield started
    finally:
        started.end()


@contextmanager
def upstream(*arguments: object) -> Iterator[tuple[Process, str]]:
    """Run the upstream of the benchmarks; yield the process and its base URL."""
    with process("benchmarks.upstream", *arguments) as server:
        yield server, f"http://127.0.0.1:{server.next_line()}/api"


@contextmanager
def server(kind: str, *arguments: object, environment: dict[str, str] | None = None) -> Iterator[tuple[Process, str]]:
    """Run a reference server of `benchmarks/servers`; yield the process and its address."""
    with process(f"benchmarks.servers.{kind}", *arguments, environment=environment) as started:
        yield started, started.next_line()


@contextmanager
def gateway(
    upstream_url: str, command: str, environment: dict[str, str] | None = None, /, **settings: object
) -> Iterator[tuple[Process, str]]:
    """Run the gateway with logs, metrics and traces; yield the process and its address.

    Args:
        upstream_url: The base URL of the upstream.
        command: WITH_PAUSES or SERVE, or another module with its arguments.
        environment: Further variables.
        settings: Settings of the gateway, with the names of their fields.

    """
    with process("benchmarks.collector") as collector:
        variables = QUIET_GATEWAY | {
            "JOBGATEWAY_UPSTREAM_URL": upstream_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.next_line()}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            **{f"JOBGATEWAY_{name.upper()}": str(value) for name, value in settings.items()},
            **(environment or {}),
        }
        with process(*command.split(), environment=variables) as started:
            yield started, json.loads(started.log_line_with('"serving"'))["address"]


@contextmanager
def streams(address: str, first: int, step: int, jobs: int, count: int, *own: str) -> Iterator[Process]:
    """Run a process with open streams of many jobs (`benchmarks/many.py`); yield it when all have caught up."""
    with process("benchmarks.many", address, first, step, jobs, count, *own) as clients:
        if clients.next_line() != "open":
            raise RuntimeError("the streams did not open")
        yield clients


@contextmanager
def watches(address: str, first: int, step: int, jobs: int, watchers: int, *timed: object) -> Iterator[Process]:
    """Run a process with open watches (`benchmarks/streams.py`); yield it when all have an event."""
    with process("benchmarks.streams", address, first, step, jobs, watchers, *timed) as clients:
        if clients.next_line() != "open":
            raise RuntimeError("the watches did not open")
        yield clients
