"""`dev`: a gateway in front of a simulated upstream, to try things with."""

from typing import Annotated

import typer

from gateway.cli.options import DEFAULT_TARGET

Listen = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help=f"Address of the gateway; port 0 selects a free one. Default: {DEFAULT_TARGET}, or a free port if it is "
        "taken.",
        show_default=False,
    ),
]


def dev(listen: Listen = None) -> None:
    """Start a gateway in front of a simulated upstream, to try it without an account.

    Settings in the environment do not apply. The state is forgotten at the end.
    """
    from gateway.cli import dev_servers

    dev_servers.run_until_stopped(listen)
