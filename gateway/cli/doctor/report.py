"""The output of the results: lines or JSON, and the progress while streams are held."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from gateway.cli.display.moving import print_line
from gateway.cli.doctor.findings import Finding, Outcome
from gateway.cli.output import terminal
from gateway.cli.output.formatting import clean

_STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red", Outcome.SKIP: "dim"}
_OUTCOME_WIDTH, _CHECK_WIDTH = 4, 10
_INDENT = " " * (_OUTCOME_WIDTH + 1 + _CHECK_WIDTH + 1)
_HOLDING = "holding silent streams"


class Report:
    """The output of one run. Use it as a context manager around the checks."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._counts: Counter[Outcome] = Counter()
        self._needing: dict[str, list[str]] = {}
        self._bar: Progress | None = None
        self._announced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_progress()

    @property
    def failed(self) -> bool:
        """True if a check failed."""
        return bool(self._counts[Outcome.FAIL])

    def show(self, finding: Finding) -> None:
        """Print a result."""
        self._end_progress()
        self._counts[finding.outcome] += 1
        if self._as_json:
            self._print_json(asdict(finding))
        elif finding.outcome is Outcome.SKIP and finding.text.startswith("needs "):
            # One line for all that depend on the same.
            self._needing.setdefault(finding.text, []).append(finding.check)
        else:
            self._print_needing()
            self._print(finding)

    def conclude(self) -> None:
        """Print the checks that could not be made, and the summary."""
        counts = {outcome.value: self._counts[outcome] for outcome in Outcome}
        if self._as_json:
            self._print_json({"summary": counts})
            return
        self._print_needing()
        said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
        style = _STYLES[Outcome.FAIL if self.failed else Outcome.WARN if counts["warn"] else Outcome.OK]
        print_line(self._console, f"{sum(counts.values())} checks: {said}", style)

    def progress(self, seconds: float, total: float) -> None:
        """Show how long streams have been held."""
        if not terminal.is_terminal(sys.stderr):
            if not self._announced:
                terminal.note(f"{_HOLDING} for {total:g} s; Ctrl-C ends it early")
            self._announced = True
            return
        if self._bar is None:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn(f"{{task.completed:.0f}} of {total:g} s"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(f"{_HOLDING}; Ctrl-C ends it early", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=min(seconds, total))

    def _end_progress(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print_needing(self) -> None:
        for reason, checks in self._needing.items():
            self._row(Outcome.SKIP, "", f"{', '.join(checks)}: {reason}")
        self._needing.clear()

    def _print(self, finding: Finding) -> None:
        self._row(finding.outcome, finding.check, finding.text)
        if finding.fix:
            self._row(None, "", f"fix: {finding.fix}" + (":" if finding.paste else ""))
        for line in finding.paste:
            # Not wrapped, so that it can be copied.
            self._console.print(Text(f"{_INDENT}  {clean(line)}"), soft_wrap=True)

    def _row(self, outcome: Outcome | None, check: str, text: str) -> None:
        word = Text(outcome or "", _STYLES[outcome] if outcome else "")
        # A Text has no markup. In a pipe, a line stays a line.
        if not terminal.is_terminal(sys.stdout):
            line = f"{word.plain:{_OUTCOME_WIDTH}} {check:{_CHECK_WIDTH}} {clean(text)}"
            self._console.print(Text(line), soft_wrap=True)
            return
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=_OUTCOME_WIDTH)
        table.add_column(width=max(_CHECK_WIDTH, len(check)), no_wrap=True)
        table.add_column()
        table.add_row(word, Text(check), Text(clean(text)))
        self._console.print(table)

    def _print_json(self, document: object) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
