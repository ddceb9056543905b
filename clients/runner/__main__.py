"""Build the clients, run each through every scenario, and print a table; the exit code is 1 if a run fails."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog
from rich.console import Console
from rich.table import Table

from clients.runner import documented_errors, languages, recovering, revoked, scenarios, short_scripts
from clients.runner.documented_errors import FailingGateway
from clients.runner.judge import Run, problems
from clients.runner.languages import CommandFailed, Language
from clients.runner.recovering import RecoveringGateway
from clients.runner.revoked import RevokingGateway
from clients.runner.scenarios import Scenario
from clients.runner.scripted import ScriptedGateway
from clients.runner.short_scripts import ShortGateway
from clients.runner.stack import FRESH_TOKEN, TOKEN, Stack

RUN_SECONDS = 120.0
LONGEST_LINE = 1 << 20
SHOWN_LINES = 30

Testbed: TypeAlias = Stack | ScriptedGateway
"""The servers of a scenario."""


@dataclass
class Program:
    """A client that was built, with the duration or the problems of each run, by scenario."""

    name: str
    command: str
    language: Language
    build_seconds: float
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    def command_for(self, scenario: Scenario) -> str:
        """Return the command that plays a scenario, with a race detector for concurrent watches if there is one."""
        if any(step["do"] == "watch_each" for step in scenario.steps):
            return self.language.manifest.race.get(self.name, self.command)
        return self.command


async def main() -> int:
    """Build, run and report; return the exit code."""
    arguments = _arguments()
    # The log lines of the simulators would hide the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console = Console(width=None if sys.stdout.isatty() else 160)
    programs, complaints = await _build(arguments, console)
    table = [each for each in _table() if arguments.scenario in (None, each.name)]
    gate = asyncio.Semaphore(arguments.jobs)
    attempts = list(itertools.product(programs, table))
    # Mixed, so that runs that wait for a time limit are beside others that compute. The seed keeps the order.
    random.Random(0).shuffle(attempts)  # noqa: S311
    async with asyncio.TaskGroup() as runs:
        for program, scenario in attempts:
            runs.create_task(attempt(program, scenario, gate, console))
    _print(programs, table, console)
    failures = sum(len(program.failed) for program in programs)
    passed = sum(len(program.seconds) for program in programs)
    for complaint in complaints:
        console.print(complaint, markup=False, highlight=False, style="red")
    console.print(f"{passed} passed, {failures + len(complaints)} failed", highlight=False)
    return 1 if failures or complaints or not passed else 0


def _testbed(scenario: Scenario) -> Testbed:
    match scenario.name:
        case documented_errors.NAME:
            return FailingGateway()
        case revoked.NAME:
            return RevokingGateway()
        case recovering.NAME:
            return RecoveringGateway()
        case name if name in short_scripts.NAMES:
            return ShortGateway(name)
    return Stack(scenario)


def _table() -> list[Scenario]:
    scripted = [documented_errors.scenario(), revoked.scenario(), recovering.scenario(), *short_scripts.scenarios()]
    return [*scenarios.load(), *scripted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="LANGUAGE|PROGRAM", help="the clients to run (default: all)")
    parser.add_argument("--scenario", choices=[each.name for each in _table()])
    parser.add_argument("--jobs", type=int, default=3 * (os.cpu_count() or 2), help="runs at a time")
    parser.add_argument("--no-check", action="store_true", help="do not run formatters and linters")
    languages.add_require_all(parser)
    return parser.parse_args()


async def _build(arguments: argparse.Namespace, console: Console) -> tuple[list[Program], list[str]]:
    programs: list[Program] = []
    complaints: list[str] = []
    for language in languages.load():
        wanted = _wanted(language, arguments.names)
        if not wanted:
            continue
        if missing := language.missing():
            text = f"{language.name}: skipped; install {', '.join(missing)} and add it to the PATH"
            if arguments.require_all:
                complaints.append(text)
            else:
                console.print(text, style="yellow")
            continue
        try:
            seconds = await language.build(check=not arguments.no_check)
        except CommandFailed as error:
            complaints.append(str(error))
            continue
        console.print(f"{language.name}: built in {seconds:.1f} s", highlight=False)
        programs += [Program(name, command, language, seconds) for name, command in wanted.items()]
    return programs, complaints


def _wanted(language: Language, names: list[str]) -> dict[str, str]:
    every = language.manifest.programs
    if not names or language.name in names:
        return every
    return {name: command for name, command in every.items() if name in names}


async def attempt(program: Program, scenario: Scenario, gate: asyncio.Semaphore, console: Console) -> None:
    """Run a program through a scenario when `gate` allows it, and note the result in `program`."""
    async with gate:
        run, log = Run(), ""
        try:
            async with _testbed(scenario) as testbed:
                start = time.monotonic()
                run = await _run(program, scenario, testbed)
                seconds = time.monotonic() - start
                log = testbed.gateway_log
            found = problems(scenario, run)
        except (RuntimeError, OSError) as error:  # a gateway did not start; the other runs continue
            found = [f"the scenario could not run: {error!r}"]
    if not found:
        program.seconds[scenario.name] = seconds
        return
    program.failed[scenario.name] = found
    shown = [f"FAILED {program.name} {scenario.name}", *(f"  {problem}" for problem in found)]
    shown += ["  the client wrote:", *(f"    {line[:300]}" for line in run.text.splitlines()[-SHOWN_LINES:])]
    shown += ["  the gateway logged:", *(f"    {line[:300]}" for line in log.splitlines()[-SHOWN_LINES:])]
    console.print("\n".join(shown), markup=False, highlight=False)


async def _run(program: Program, scenario: Scenario, testbed: Testbed) -> Run:
    run = Run(reads_service_config=program.language.manifest.reads_service_config)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(scenario.file())
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *program.command_for(scenario).split(),
            testbed.target,
            file.name,
            str(scenario.service_config),
            cwd=program.language.folder,
            env=languages.environment() | {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_FRESH_TOKEN": FRESH_TOKEN},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await asyncio.gather(_read_lines(process.stdout, run, testbed), _read_text(process.stderr, run))
                run.exit_code = await process.wait()
        except TimeoutError:
            run.text += f"killed after {RUN_SECONDS:.0f} seconds\n"
            run.exit_code = -9
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    await testbed.settled()
    run.missed = [fault.kind for fault in testbed.missed]
    run.calls, run.posts, run.paths = testbed.calls, testbed.posts, testbed.paths
    run.connections = testbed.connections
    return run


async def _read_lines(stream: asyncio.StreamReader | None, run: Run, testbed: Testbed) -> None:
    assert stream is not None  # noqa: S101 - it is a pipe, as requested above
    while line := await stream.readline():
        run.text += line.decode(errors="replace")
        try:
            read = json.loads(line)
        except ValueError:
            read = None
        if isinstance(read, dict):
            run.lines.append(read)
            testbed.observe(read)
        else:
            run.invalid_lines.append(line)


async def _read_text(stream: asyncio.StreamReader | None, run: Run) -> None:
    assert stream is not None  # noqa: S101 - it is a pipe, as requested above
    while line := await stream.readline():
        run.text += line.decode(errors="replace")


def _print(programs: list[Program], table: list[Scenario], console: Console) -> None:
    shown = Table("scenario", *(program.name for program in programs))
    for scenario in table:
        shown.add_row(scenario.name, *(_cell(program, scenario.name) for program in programs))
    shown.add_section()
    shown.add_row("build", *(f"{program.build_seconds:.1f} s" for program in programs))
    shown.add_row("runs", *(f"{sum(program.seconds.values()):.1f} s" for program in programs))
    console.print(shown)


def _cell(program: Program, scenario: str) -> str:
    if scenario in program.failed:
        return "[red]FAILED[/red]"
    return f"{program.seconds[scenario]:.1f} s"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
