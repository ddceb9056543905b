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
_MINUTE = 60

SPINNER = Spinner("dots", style="cyan")


def lines(progress: JobProgress, console: Console) -> RenderableType:
    """Return the moving lines, each cut to the width of the terminal, except that of an outage."""
    now = console.get_time()
    rows: list[RenderableType] = []
    for line in step_lines(progress.earlier_steps, progress.steps):
        line.no_wrap, line.overflow = True, "ellipsis"
        rows.append(line)
    rows.append(_bar_line(progress, now, width(console)))
    rows += _outage_lines(progress.outage, now)
    return beside_echo(Group(*rows), console)


def beside_echo(rows: RenderableType, console: Console) -> RenderableType:
    """Return moving lines that leave room for the echo of Ctrl-C."""
    return Constrain(rows, width(console))


def width(console: Console) -> int:
    """Return the width of moving lines."""
    return max(1, console.width - _ECHO_COLUMNS)


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
    return line.cell_len > width(console)


def step_line(step: Step) -> Text:
    """Return the line of a step that has ended."""
    return Text.assemble((_step_time(step), "dim"), step.message)


def print_steps(console: Console, earlier: int, steps: Iterable[Step]) -> None:
    """Print the lines of `step_lines`, with long messages as a whole beside their durations."""
    for line in step_lines(earlier, ()):
        console.print(line)
    rows = Table.grid(expand=True)
    rows.add_column(no_wrap=True)
    rows.add_column(ratio=1, overflow="fold")
    for step in steps:
        rows.add_row(Text(_step_time(step), "dim"), Text(step.message))
    if rows.row_count:
        console.print(rows)


def _step_time(step: Step) -> str:
    return f"{_STEP_INDENT}{duration(step.seconds):>{_WIDEST_DURATION}}  "


def _bar_line(progress: JobProgress, now: float, columns: int) -> Table:
    percent = progress.percent
    job = f"job {progress.uid} " if progress.uid else ""
    shown = "" if percent is None else f"{percent:3.0f}%"
    elapsed = duration(progress.elapsed(now), tenths=False)
    remaining = progress.remaining(now)
    eta = "" if remaining is None else f"ETA {duration(remaining, tenths=False)}"
    # The times have places of their own, so that the bar and the percentage stay where they are when times change.
    end = f"{shown}  {elapsed:>{_WIDEST_DURATION}}  {eta:<{_WIDEST_ETA}}"
    # The spinner and the gaps between the four parts.
    room = columns - len(job) - Text(progress.message).cell_len - len(end) - 7
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
        # Without room for a bar, the places are as narrow as the times of this minute or hour.
        end = f"{elapsed:>{_place(progress.elapsed(now))}}"
        if percent is not None:
            end = f"{shown}  {end}  {eta:<{len('ETA ') + _place(progress.estimate(now) or 0)}}"
    # Not aligned to the right, which would strip the place of a missing estimate.
    row.add_column(no_wrap=True, width=len(end))
    row.add_row(*cells, Text(end))
    return row


def _place(seconds: float) -> int:
    """Return the number of characters for a duration."""
    return len("59 s") if round(seconds) < _MINUTE else _WIDEST_DURATION


def waiting_lines(uid: int, outage: Outage, began: float, console: Console) -> RenderableType:
    """Return the lines of a command that has waited for a job since `began`."""
    now = console.get_time()
    row = pending_line(f"waiting for job {uid} to end", now - began, console)
    return Group(row, beside_echo(Group(*_outage_lines(outage, now)), console))


def pending_line(text: str, seconds: float, console: Console) -> RenderableType:
    """Return the line of a command that has waited for something for some time."""
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(SPINNER, Text(f"{clean(text)}  {duration(seconds, tenths=False)}"))
    return beside_echo(row, console)


def _outage_lines(outage: Outage, now: float) -> list[RenderableType]:
    line = outage.line(now)
    return [Padding(Text(line, "yellow"), (0, 0, 0, len(_STEP_INDENT)))] if line else []


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print one line of any text."""
    # A Text has no markup. It is not wrapped, so that a line stays a line.
    console.print(Text(clean(line), style), soft_wrap=True)
