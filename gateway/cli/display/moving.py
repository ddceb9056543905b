"""The lines of one job that move on a terminal: its steps, an outage, and its bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gateway.cli.output.formatting import clean, counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.live import Live

    from gateway.cli.display.progress import JobProgress, Outage, Step

WIDEST_BAR = 30
# A shorter bar shows nothing.
NARROWEST_BAR = 5
_STEP_INDENT = "  "
# The terminal echoes Ctrl-C as ^C behind the last line. In a full line it would wrap, and one line too few be erased.
_ECHO_COLUMNS = 2
_WIDEST_DURATION = len("59 m 59 s")
_WIDEST_ETA = len("ETA ") + _WIDEST_DURATION

SPINNER = Spinner("dots", style="cyan")


def lines(progress: JobProgress, console: Console) -> RenderableType:
    """Return the moving lines, each cut to the width of the terminal, except that of an outage."""
    now = console.get_time()
    rows: list[RenderableType] = []
    for line in step_lines(progress.earlier_steps, progress.steps):
        line.no_wrap, line.overflow = True, "ellipsis"
        rows.append(line)
    rows.append(_bar_line(progress, now, console.width - _ECHO_COLUMNS))
    rows += _outage_lines(progress.outage, now)
    return beside_echo(Group(*rows), console)


def beside_echo(rows: RenderableType, console: Console) -> RenderableType:
    """Return moving lines that leave room for the echo of Ctrl-C."""
    return Constrain(rows, max(1, console.width - _ECHO_COLUMNS))


def start(live: Live) -> None:
    """Show moving lines, and remove them if Ctrl-C comes before this returns."""
    try:
        live.start(refresh=True)
    except BaseException:
        # Rich does this only for an `Exception`.
        live.stop()
        raise


def step_lines(earlier: int, steps: Iterable[Step]) -> list[Text]:
    """Return a line for each step with its duration, after one for the number of those before them."""
    return [
        *([Text(f"{_STEP_INDENT}and {counted(earlier, 'earlier step')}", "dim")] if earlier else []),
        *(step_line(each) for each in steps),
    ]


def is_cut(line: Text, console: Console) -> bool:
    """Return whether a line is too long for the moving lines."""
    return line.cell_len > console.width - _ECHO_COLUMNS


def step_line(step: Step) -> Text:
    """Return the line of a step that has ended."""
    return Text.assemble((f"{_STEP_INDENT}{duration(step.seconds):>9}  ", "dim"), step.message)


def _bar_line(progress: JobProgress, now: float, width: int) -> Table:
    percent = progress.percent
    job = f"job {progress.uid} " if progress.uid else ""
    shown = "" if percent is None else f"{percent:3.0f}%"
    elapsed = duration(progress.elapsed(now), tenths=False)
    remaining = progress.remaining(now)
    eta = "" if remaining is None else f"ETA {duration(remaining, tenths=False)}"
    # Beside a bar, the times have places of their own, so that the bar stays where it is when they change.
    end = f"{shown}  {elapsed:>{_WIDEST_DURATION}}  {eta:<{_WIDEST_ETA}}"
    # The spinner and the gaps between the four parts.
    room = width - len(job) - Text(progress.message).cell_len - len(end) - 7
    # On a narrow terminal, the bar shrinks before the text does.
    bar = min(room, WIDEST_BAR)
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(width=1)
    row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    cells: list[RenderableType] = [SPINNER, Text.assemble((job, "bold"), progress.message)]
    if percent is not None and bar >= NARROWEST_BAR:
        row.add_column(width=bar)
        cells.append(ProgressBar(100, percent, width=bar, complete_style="cyan", finished_style="cyan"))
    else:
        end = "  ".join(filter(None, (shown, elapsed, eta)))
    # Not aligned to the right, which would strip the place of a missing estimate.
    row.add_column(no_wrap=True, width=len(end))
    row.add_row(*cells, Text(end))
    return row


def waiting_lines(uid: int, outage: Outage, began: float, console: Console) -> RenderableType:
    """Return the lines of a command that has waited for a job since `began`."""
    now = console.get_time()
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(SPINNER, f"waiting for job {uid} to end  {duration(now - began, tenths=False)}")
    return beside_echo(Group(row, *_outage_lines(outage, now)), console)


def _outage_lines(outage: Outage, now: float) -> list[RenderableType]:
    line = outage.line(now)
    return [Padding(Text(line, "yellow"), (0, 0, 0, len(_STEP_INDENT)))] if line else []


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print one line of any text."""
    # A Text has no markup. It is not wrapped, so that a line stays a line.
    console.print(Text(clean(line), style), soft_wrap=True)
