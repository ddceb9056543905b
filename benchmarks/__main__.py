"""`make bench`: run the cases, and write `benchmarks/results/`."""

from __future__ import annotations

import importlib
import time
from typing import Annotated

import typer

from benchmarks.results import write
from benchmarks.table import Row, as_markdown

CASES = (
    *("start", "noticing", "polling", "calls", "request_ids", "connections", "fanout"),
    *("wake", "idle", "delay", "many", "large", "growth", "status", "promises"),
)


def main(
    cases: Annotated[list[str] | None, typer.Argument(help="Cases to run (default: all): " + ", ".join(CASES))] = None,
    *,
    quick: Annotated[
        bool, typer.Option(help="Check that the cases run. The figures of such short runs mean little.")
    ] = False,
) -> None:
    """Measure the gateway next to its references."""
    rows: list[Row] = []
    start = time.monotonic()
    for case in cases or CASES:
        typer.echo(f"{time.monotonic() - start:6.1f} s  {case}", err=True)
        rows += importlib.import_module(f"benchmarks.cases.{case}").run(quick=quick)
    typer.echo(as_markdown(rows))
    if not cases and not quick:
        write(rows, time.monotonic() - start)


typer.run(main)
