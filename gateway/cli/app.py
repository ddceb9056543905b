"""The commands."""

from collections.abc import Callable

import typer

from gateway.cli import calls, demo, follow, serve
from gateway.cli.exits import EXPLAINED
from gateway.cli.options import expanded

app = typer.Typer(
    name="jobgateway",
    help=f"VIKTOR jobs over gRPC: send them, and watch them without polling.\n\n{EXPLAINED}",
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks show the local variables, and the token is one.
    pretty_exceptions_enable=False,
)

_JOBS: tuple[Callable[..., None], ...] = (
    follow.run,
    follow.watch,
    calls.send,
    calls.get,
    calls.wait,
    calls.cancel,
)
_SERVERS: tuple[Callable[..., None], ...] = (serve.serve, serve.simulate, demo.demo)

for command in _JOBS:
    app.command(rich_help_panel="Jobs")(expanded(command))
for command in _SERVERS:
    app.command(rich_help_panel="Servers")(command)
