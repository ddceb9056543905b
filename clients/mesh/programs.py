"""The clients and the command line, as processes whose output is read line by line."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.runner import languages
from clients.runner.scenarios import CLIENTS, SERVICE_CONFIG
from clients.runner.stack import FRESH_TOKEN, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Line = dict[str, Any]

RUN_SECONDS = 120.0
LONGEST_LINE = 1 << 20
CLI = "cli"


@dataclass
class Run:
    """The output of one client, with the time of each line.

    Lines of the command line are converted to the format of the clients.
    """

    name: str
    lines: list[tuple[float, Line]] = field(default_factory=list)
    exit_code: int | None = None
    text: str = ""

    def has(self, do: str, kind: str) -> bool:
        """Return whether a step printed a line of a kind."""
        return any(line.get("do") == do and line.get(kind) for _, line in self.lines)

    @property
    def events(self) -> int:
        """The number of events of the watch."""
        return sum("job" in line or "heartbeat" in line for _, line in self.lines if line.get("do") == "watch")

    @property
    def uid(self) -> int | None:
        """The uid of the job that the client sent."""
        uids = [line["job"]["uid"] for _, line in self.lines if line.get("do") == "send" and "job" in line]
        return int(uids[0]) if uids else None

    @property
    def end(self) -> str | None:
        """The status of the job at the end of the watch."""
        jobs = [line["job"] for _, line in self.lines if line.get("do") == "watch" and line.get("job")]
        return str(jobs[-1].get("status")) if jobs and jobs[-1].get("done") else None

    def silence(self) -> float:
        """Return the longest time between two events of the watch, in seconds."""
        times = [at for at, line in self.lines if line.get("do") == "watch" and ("job" in line or "heartbeat" in line)]
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)


class Program:
    """A client of one language, or the command line; `name` is the title of its column."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._folder = folder

    async def run(self, run: Run, target: str, steps: Sequence[Line], changed: Callable[[], None]) -> None:
        """Run steps against `target`, and add the output to `run`; `changed` is called after each line."""
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await self._play(run, target, steps, changed)
        except TimeoutError:
            run.text += f"killed after {RUN_SECONDS:.0f} seconds\n"
            run.exit_code = -9
        changed()

    async def _play(self, run: Run, target: str, steps: Sequence[Line], changed: Callable[[], None]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"steps": steps}, file)
            file.flush()
            arguments = [*self._command, target, file.name, str(SERVICE_CONFIG)]
            run.exit_code = await _execute(arguments, self._folder, {}, run, changed, lambda line: line)


class CommandLine(Program):
    """`jobgateway send` and `jobgateway watch`."""

    def __init__(self) -> None:
        super().__init__(CLI, [sys.executable, "-m", "gateway"], CLIENTS.parent)

    async def _play(self, run: Run, target: str, steps: Sequence[Line], changed: Callable[[], None]) -> None:
        for step in steps:
            read = _reader(step["do"])
            arguments = [*self._command, step["do"], *_arguments(step, run.uid), "--target", target, "-o", "json"]
            run.exit_code = await _execute(arguments, self._folder, {"COLUMNS": "300"}, run, changed, read)
            if run.exit_code:
                run.lines.append((time.monotonic(), {"do": step["do"], "error": {"code": f"exit {run.exit_code}"}}))
                return


def _arguments(step: Line, uid: int | None) -> list[str]:
    if step["do"] == "watch":
        return [str(uid)]
    request = step["request"]
    return [
        *("--workspace", request["workspace_id"], "--entity", str(request["entity_id"])),
        *("--method", request["method_name"], "--params", json.dumps(request["params"])),
    ]


def _reader(do: str) -> Callable[[Line], Line]:
    def read(line: Line) -> Line:
        if do == "watch":
            return {"do": do, **{kind: line[kind] for kind in ("job", "heartbeat") if kind in line}}
        return {"do": do, "job": line}

    return read


async def _execute(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    run: Run,
    changed: Callable[[], None],
    read: Callable[[Line], Line],
) -> int:
    tokens = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_FRESH_TOKEN": FRESH_TOKEN}
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=folder,
        env=languages.environment() | tokens | dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )

    async def lines(stream: asyncio.StreamReader | None, *, events: bool) -> None:
        assert stream is not None  # noqa: S101 - it is a pipe, as requested above
        while line := await stream.readline():
            run.text += line.decode(errors="replace")
            if events:
                with contextlib.suppress(ValueError):
                    run.lines.append((time.monotonic(), read(json.loads(line))))
                changed()

    try:
        await asyncio.gather(lines(process.stdout, events=True), lines(process.stderr, events=False))
        return await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def load(names: Sequence[str]) -> tuple[list[Program], list[str]]:
    """Return the programs with these names (default: all), and messages about those whose tools are missing."""
    programs: list[Program] = []
    missing: list[str] = []
    for language in languages.load():
        for name, command in language.manifest.programs.items():
            if names and name not in names and language.name not in names:
                continue
            if language.missing():
                missing.append(f"{name}: {', '.join(language.missing())} not on the PATH; install it")
            else:
                programs.append(Program(name, command.split(), language.folder))
    if not names or CLI in names:
        programs.append(CommandLine())
    return programs, missing
