"""`make bench`: runs the cases, and writes `benchmarks/results/`."""

from __future__ import annotations

import importlib
import time
from typing import Annotated

import typer

from benchmarks.results import write
from benchmarks.table import Row, as_markdown

CASES = (
    "start",
    "noticing",
    "polling",
    "calls",
    "fanout",
    "wake",
    "idle",
    "delay",
    "large",
    "growth",
    "promises",
    "request_ids",
)


def main(
    cases: Annotated[list[str] | None, typer.Argument(help="Some of: " + ", ".join(CASES))] = None,
    *,
    quick: Annotated[bool, typer.Option(help="Short runs, whose figures say little: do the cases still run?")] = False,
) -> None:
    """Measure the gateway beside its floor."""
    rows: list[Row] = []
    began = time.monotonic()
    for case in cases or CASES:
        typer.echo(f"{time.monotonic() - began:6.1f} s  {case}", err=True)
        rows += importlib.import_module(f"benchmarks.cases.{case}").run(quick=quick)
    typer.echo(as_markdown(rows))
    if not cases and not quick:
        write(rows, time.monotonic() - began)


typer.run(main)
