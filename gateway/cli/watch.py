"""`run` and `watch`: jobs until they end."""

from gateway.cli.options import JobOptions, LongCallOptions, OutputOptions, Uids


def run(job: JobOptions, call: LongCallOptions, shown: OutputOptions) -> None:
    """Send a job and watch it until it ends."""
    from gateway.cli import follow

    follow.run(job, call, shown)


def watch(uids: Uids, call: LongCallOptions, shown: OutputOptions) -> None:
    """Watch a job until it ends, or several on one stream: a line for each and a total, or a table."""
    from gateway.cli import follow

    follow.watch(uids, call, shown)
