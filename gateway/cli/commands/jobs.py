"""`run`, `watch`, `send`, `get`, `wait` and `cancel`: the commands about jobs."""

from typing import Annotated

import typer

from gateway.cli.options import shared as opt

WaitTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        max=opt.LONGEST_DEADLINE,
        metavar="SECONDS",
        help="How long to wait; 0 reads the job once. Without it, wait until the job has ended.",
        show_default=False,
    ),
]


def run(job: opt.JobOptions, call: opt.LongCallOptions, shown: opt.OutputOptions) -> None:
    """Send a job and watch it until it ends."""
    from gateway.cli.client import follow

    follow.run(job, call, shown)


def watch(uids: opt.Uids, call: opt.LongCallOptions, shown: opt.OutputOptions) -> None:
    """Watch a job until it ends, or several on one stream: a line for each and a total, or a table."""
    from gateway.cli.client import follow

    follow.watch(uids, call, shown)


def send(job: opt.JobOptions, call: opt.CallOptions, shown: opt.OutputOptions) -> None:
    """Send a job without watching it."""
    from gateway.cli.client import calls

    calls.send(job, call, shown)


def get(uid: opt.Uid, call: opt.QuickCallOptions, shown: opt.OutputOptions) -> None:
    """Show the current state of a job."""
    from gateway.cli.client import calls

    calls.get(uid, call, shown)


def wait(uid: opt.Uid, call: opt.LongCallOptions, shown: opt.OutputOptions, timeout: WaitTimeout = None) -> None:
    """Wait until a job has ended, without its progress. A terminal shows how long."""
    from gateway.cli.client import waiting

    waiting.wait(uid, call, shown, timeout)


def cancel(uid: opt.Uid, call: opt.QuickCallOptions, shown: opt.FormatOptions) -> None:
    """Ask to cancel a job."""
    from gateway.cli.client import calls

    calls.cancel(uid, call, shown.output)
