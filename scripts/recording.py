"""Record terminals as pictures: `jobgateway demo`, and the progress of a job at three widths with stepped time.

The pictures are docs/images/demo.svg and progress-COLUMNS.svg. With `--text`, print the screens of the latter instead.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, Retry
from rich.console import Console
from rich.text import Text

from gateway.cli.display.event_display import ProgressDisplay
from gateway.cli.display.job_table import TableDisplay
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = ROOT / "docs" / "images"
DEMO_COLUMNS = 100
WIDTHS = (50, 80, 120)


def main() -> None:
    """Write the pictures, or print the screens."""
    if "--text" in sys.argv:
        for columns in WIDTHS:
            print(f"{columns} columns\n{progress(columns).plain}\n")
        return
    (IMAGES / "demo.svg").write_text(picture(demo(), "jobgateway demo", DEMO_COLUMNS))
    for columns in WIDTHS:
        (IMAGES / f"progress-{columns}.svg").write_text(picture(progress(columns), f"{columns} columns", columns))


def picture(screen: Text, title: str, columns: int) -> str:
    """Return a screen as SVG."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(screen)
    return console.export_svg(title=title, unique_id=re.sub(r"\W+", "-", title))


def demo() -> Text:
    """Run the demo and return its screen."""
    with Terminal(DEMO_COLUMNS, 100) as terminal:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        subprocess.run(  # noqa: S603 - our own command
            [str(Path(sys.executable).parent / "jobgateway"), "demo"],
            env=environment | {"TERM": "xterm-256color"},
            stdin=terminal.fd,
            stdout=terminal.fd,
            stderr=terminal.fd,
            check=True,
        )
        screen = terminal.text()
    return Text.assemble("$ jobgateway demo\n", screen)


def progress(columns: int) -> Text:
    """Return the screens of a job and of several jobs at some moments."""
    screens = [*_job(columns), *_table(columns)]
    parts = [part for title, screen in screens for part in ((f"# {title}\n", "bright_black"), screen, "\n\n")]
    return Text.assemble(*parts[:-1])


def _state(uid: int, message: str, percent: float) -> pb.JobEvent:
    progress = pb.Progress(message=message, percentage=percent)
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid, status=pb.JOB_STATUS_RUNNING, progress=progress))


def _end(uid: int, error: str = "") -> pb.JobEvent:
    status = pb.JOB_STATUS_ERROR if error else pb.JOB_STATUS_SUCCESS
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid, status=status, done=True, error=pb.JobError(message=error)))


def _job(columns: int) -> Iterator[tuple[str, Text]]:
    now = 0.0
    with Terminal(columns) as terminal:
        console = terminal.console(lambda: now)
        with console.file, ProgressDisplay(console, sent_here=True) as display:
            display.event(_state(42, "Meshing the foundation", 0))
            now = 31
            display.event(_state(42, "Solving load case 3 of 12", 30))
            now = 58
            display.event(_state(42, "Solving load case 7 of 12", 55))
            yield "a job runs", terminal.text()
            display.retrying(Retry(GatewayError(grpc.StatusCode.UNAVAILABLE), wait=17.0, new_connection=True))
            now = 70
            display.refresh()
            yield "the gateway is away", terminal.text()
            now = 151
            display.event(_end(42))
            yield "the end", terminal.text()


def _table(columns: int) -> Iterator[tuple[str, Text]]:
    now = 0.0
    with Terminal(columns) as terminal:
        console = terminal.console(lambda: now)
        with console.file, TableDisplay(console, range(1, 5)) as table:
            for uid, percent in ((1, 20), (2, 55), (3, 10), (4, 80)):
                table.event(_state(uid, f"Solving load case {uid} of 4", percent))
            now = 95
            table.event(_end(2))
            table.event(_end(3, "The wall is too thin"))
            table.refresh()
            yield "several jobs", terminal.text()


if __name__ == "__main__":
    main()
