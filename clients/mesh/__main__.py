"""Run all clients through each proxy while gateways and proxies fail; the exit code is 1 if a run fails.

The clients must have been built (`make clients`), or are built with --build.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from rich.console import Console
from rich.table import Table

from clients.mesh import checks, fleet, many, programs, sharing
from clients.mesh.cases import CASES, Case, Mesh, problems
from clients.mesh.checks import CHECKS, SETTINGS
from clients.mesh.fleet import FLEET
from clients.mesh.many import MANY
from clients.mesh.programs import Program, Run
from clients.mesh.proxies import PROXIES, ROUTERS, Proxy
from clients.mesh.sharing import SHARING
from clients.runner import languages

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_LINES = 25
CHECKED = {SETTINGS: checks.check, FLEET: fleet.check, SHARING: sharing.check, MANY: many.check}


@dataclass
class Row:
    """The result of a case behind a proxy, with a text for each client."""

    case: Case
    proxy: type[Proxy]
    seconds: float = 0.0
    cells: dict[str, str] = field(default_factory=dict)
    failed: bool = False


async def main() -> int:
    """Run and report; return the exit code."""
    arguments = _arguments()
    if (task := asyncio.current_task()) is not None:
        # Like Ctrl-C, so that no gateway and no proxy outlives the run.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console = Console(width=None if sys.stdout.isatty() else 180)
    if arguments.build:
        for language in languages.load():
            if not language.missing():
                await language.build(check=False)
    clients, missing = programs.load(arguments.clients)
    missing += [f"{each.program}: not on the PATH; install it" for each in PROXIES if each.missing()]
    for each in missing:
        console.print(f"skipped: {each}", style="yellow", highlight=False)
    start = time.monotonic()
    rows, settings = _rows(arguments, CASES), _rows(arguments, tuple(CHECKED))
    await _run_rows(rows, settings, clients, arguments.jobs, console)
    if rows:
        _print(rows, [client.name for client in clients], console, "end, longest silence, resumes")
    if settings:
        _print(
            settings,
            [*CHECKS, *(each.name for each in (FLEET, SHARING, MANY))],
            console,
            "with the recommended settings",
        )
    rows += settings
    failures = sum(row.failed for row in rows)
    console.print(
        f"{len(rows) - failures} passed, {failures} failed, {time.monotonic() - start:.0f} s", highlight=False
    )
    return 1 if failures or not rows or (missing and arguments.require_all) else 0


async def _run_rows(
    rows: Sequence[Row], settings: Sequence[Row], clients: Sequence[Program], jobs: int, console: Console
) -> None:
    gate = asyncio.Semaphore(jobs)
    async with asyncio.TaskGroup() as group:
        # The checks of the settings need no slot, because they wait most of the time.
        for row in settings:
            if row.case is not MANY:
                group.create_task(_check(row, console))
        for row in rows:
            group.create_task(_play(row, clients, gate, console))
    # Alone, because it takes the processor from those that measure silences.
    for row in settings:
        if row.case is MANY:
            await _check(row, console)


def _rows(arguments: argparse.Namespace, cases: Sequence[Case]) -> list[Row]:
    return [
        Row(case, proxy)
        for proxy in dict.fromkeys((*PROXIES, *ROUTERS))
        for case in cases
        if proxy in case.proxies
        and not proxy.missing()
        and arguments.proxy in (None, proxy.program)
        and arguments.case in (None, case.name)
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help="the clients to run (default: all)")
    parser.add_argument("--proxy", choices=[each.program for each in PROXIES])
    parser.add_argument("--case", choices=[each.name for each in (*CASES, *CHECKED)])
    parser.add_argument("--jobs", type=int, default=3, help="rows at a time")
    parser.add_argument("--build", action="store_true", help="build the clients first")
    parser.add_argument(
        "--require-all",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail if a proxy or a toolchain is missing (default with CI=true)",
    )
    return parser.parse_args()


async def _play(row: Row, clients: Sequence[Program], gate: asyncio.Semaphore, console: Console) -> None:
    async with gate:
        start = time.monotonic()
        try:
            async with Mesh(row.case, row.proxy) as mesh:
                problem = await _run_all(row.case, mesh, clients)
                _judge(row, mesh, problem, console)
        except (RuntimeError, OSError) as error:
            row.failed = True
            console.print(f"FAILED {row.proxy.name} {row.case.name}: {error!r}", markup=False, highlight=False)
        row.seconds = time.monotonic() - start


async def _check(row: Row, console: Console) -> None:
    start = time.monotonic()
    try:
        async with Mesh(row.case, row.proxy) as mesh:
            found = await CHECKED[row.case](mesh)
            row.failed = any(found.values())
            if row.failed:
                written = [each.log for each in mesh.gateways] + [each.log for each in mesh.proxies]
                logs = [line for log in written for line in _tail(log)]
                text = "\n".join([f"FAILED {row.proxy.name} {row.case.name}", *logs])
                console.print(text, markup=False, highlight=False)
        row.cells = {name: problem or mesh.notes or "ok" for name, problem in found.items()}
    except (RuntimeError, OSError) as error:
        row.failed = True
        console.print(f"FAILED {row.proxy.name} {row.case.name}: {error!r}", markup=False, highlight=False)
    row.seconds = time.monotonic() - start


async def _run_all(case: Case, mesh: Mesh, clients: Sequence[Program]) -> str:
    problem = ""
    mesh.runs = [Run(client.name) for client in clients]
    async with asyncio.TaskGroup() as group:
        for client, run in zip(clients, mesh.runs, strict=True):
            group.create_task(client.run(run, mesh.target, case.steps(client.name), mesh.signal.changed))
        try:
            await case.play(mesh)
        except TimeoutError as error:
            problem = str(error)
        if case.watch:
            mesh.release()
    return problem


def _judge(row: Row, mesh: Mesh, problem: str, console: Console) -> None:
    shown = [problem] if problem else []
    # If nothing reaches the upstream, no submission can arrive twice, and the row proves nothing.
    if not row.case.watch and not any(mesh.posts(run.name) for run in mesh.runs):
        shown.append("no POST of any client reached the upstream")
    for run in mesh.runs:
        found = problems(row.case, mesh, run)
        row.cells[run.name] = ", ".join(found) or _summary(row.case, run)
        if found:
            shown += [f"{run.name}: {', '.join(found)}", *_tail(run.text.splitlines())]
    if shown:
        row.failed = True
        logs = [line for gateway in mesh.gateways for line in _tail("".join(gateway.log).splitlines())]
        proxies = [line for proxy in mesh.proxies for line in _tail("".join(proxy.log).splitlines())]
        heading = f"FAILED {row.proxy.name} {row.case.name}"
        text = "\n".join([heading, *shown, "the gateways logged:", *logs, "the proxies logged:", *proxies])
        console.print(text, markup=False, highlight=False)


def _summary(case: Case, run: Run) -> str:
    if case.watch:
        resumes = sum("resume" in line for _, line in run.lines)
        return f"end, {run.silence():.1f} s, {resumes}"
    for _, line in run.lines:
        if error := line.get("error"):
            return str(error.get("reason") or error.get("code"))
    return "a job"


def _tail(lines: Sequence[str]) -> list[str]:
    return [f"    {line[:300].rstrip()}" for line in lines[-SHOWN_LINES:]]


def _print(rows: Sequence[Row], columns: Sequence[str], console: Console, caption: str) -> None:
    table = Table("proxy", "case", *columns, "s", caption=caption)
    for row in rows:
        cells = [row.cells.get(column, "-") for column in columns]
        style = "red" if row.failed else None
        table.add_row(row.proxy.name, row.case.name, *cells, f"{row.seconds:.0f}", style=style)
    console.print(table)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(asyncio.run(main()))
    sys.exit(130)
