"""Processes that are measured, and what they took of CPU and memory."""

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
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
WATCHED, SERVE = "benchmarks.servers.ours", "gateway serve"
QUIET_GATEWAY = {
    "JOBGATEWAY_LISTEN": "127.0.0.1:0",
    "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
    "JOBGATEWAY_MAX_WATCHES": "50000",
    "JOBGATEWAY_MAX_CALLS": "50000",
}


class Process:
    """A process of this package, from its first line to its end. `said` is that line."""

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

    def first_line(self) -> str:
        """The first line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} did not start: {self.log()[-2_000:]}")
        return line

    def ask(self, line: str) -> str:
        """What it prints when it is told so on standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.first_line()

    def log(self) -> str:
        """What it wrote to standard error so far."""
        return (self._pauses.parent / "log").read_text()

    def line_with(self, text: str) -> str:
        """The first line with `text` that it writes to standard error."""
        while not (
            lines := [line for line in self.log().splitlines(keepends=True) if text in line and line[-1] == "\n"]
        ):
            if not self.running:
                raise RuntimeError(f"{self._process.args!r} did not start: {self.log()[-2_000:]}")
            time.sleep(0.01)
        return lines[0]

    def answer(self) -> str:
        """All that it prints, once it has ended."""
        answer, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"{self._process.args!r} failed: {self.log()[-2_000:]}")
        return answer

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cpu(self) -> float:
        """Seconds of CPU that it has taken."""
        times = self._measured.cpu_times()
        return times.user + times.system

    def memory(self) -> int:
        """Bytes of memory that it holds."""
        return int(self._measured.memory_info().rss)

    def peak_memory(self) -> int:
        """The most bytes of memory that it has held."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    def longest_pause(self) -> float:
        """The longest time that its event loop stood still since this was last asked, in seconds."""
        self._pauses.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR2)
        while not self._pauses.exists():
            time.sleep(0.01)
        return float(self._pauses.read_text())

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@contextmanager
def process(module: str, *arguments: object, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """A process until the context is left."""
    started = Process(module, *arguments, environment=environment)
    try:
        yield started
    finally:
        started.end()


@contextmanager
def upstream(*arguments: object) -> Iterator[tuple[Process, str]]:
    """The upstream, and its base URL."""
    with process("benchmarks.upstream", *arguments) as server:
        yield server, f"http://127.0.0.1:{server.first_line()}/api"


@contextmanager
def server(kind: str, *arguments: object) -> Iterator[tuple[Process, str]]:
    """One of the servers in `benchmarks/servers` beside ours, and its address."""
    with process(f"benchmarks.servers.{kind}", *arguments) as started:
        yield started, started.first_line()


@contextmanager
def gateway(upstream_url: str, command: str = WATCHED, /, **settings: object) -> Iterator[tuple[Process, str]]:
    """Our gateway with all telemetry on, and its address. `settings` are those of `serve` in small letters.

    As WATCHED it tells its `longest_pause`, which takes some 2 percent of a core; as SERVE it is the command itself.
    """
    with process("benchmarks.collector") as collector:
        environment = QUIET_GATEWAY | {
            "JOBGATEWAY_UPSTREAM_URL": upstream_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.first_line()}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            **{f"JOBGATEWAY_{name.upper()}": str(value) for name, value in settings.items()},
        }
        with process(*command.split(), environment=environment) as started:
            yield started, json.loads(started.line_with('"serving"'))["address"]


@contextmanager
def watches(address: str, first: int, step: int, jobs: int, watchers: int, *timed: object) -> Iterator[Process]:
    """A process with that many open watches of each of the jobs; see `benchmarks/streams.py`."""
    with process("benchmarks.streams", address, first, step, jobs, watchers, *timed) as clients:
        if clients.first_line() != "open":
            raise RuntimeError("the watches did not open")
        yield clients
