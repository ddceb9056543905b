"""The table that a person at a terminal sees when a gateway serves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway import __version__
from gateway.server.addresses import split

if TYPE_CHECKING:
    from gateway.config import Settings

# In columns. A longer value continues on the next line.
MAX_WIDTH = 100

TLS = {
    "off": "plain text",
    "tls": "TLS",
    "mtls": "TLS, and clients must present a certificate",
}


def banner(settings: Settings, address: str, admin_address: str, *, width: int, colours: bool) -> str:
    """Return the table, and below it a first command to copy.

    Args:
        settings: The settings in use.
        address: The gRPC address, as HOST:PORT.
        admin_address: The admin address, as HOST:PORT.
        width: The columns of the terminal.
        colours: Whether the terminal shows colours.
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=min(width, MAX_WIDTH),
        force_terminal=colours,
        color_system="standard" if colours else None,
        highlight=False,
    )
    invitation = "Try it from another terminal. 42 is the uid of one of your jobs:"
    show(console, _rows(settings, address, admin_address), invitation, _commands(settings, address))
    return out.getvalue()


def show(console: Console, rows: list[tuple[str, str]], invitation: str, commands: list[str]) -> None:
    """Print a table of names and values, and below it an invitation with commands to copy."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        # `Text`, because rich would read square brackets as markup.
        table.add_row(name, Text(value))
    title = f"Job Gateway {__version__}"
    console.print(Panel(table, title=title, title_align="left", expand=False, border_style="green"))
    console.print(f"{invitation}\n")
    for line in commands:
        console.print(Text(f"  {line}", "cyan"), soft_wrap=True)
    console.print()


def reachable(address: str) -> str:
    """Return the HOST:PORT at which a client on this machine reaches a listener."""
    host, port = split(address)
    # A client cannot connect to the address of all interfaces, and a certificate seldom names a number.
    name = "localhost" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _rows(settings: Settings, address: str, admin_address: str) -> list[tuple[str, str]]:
    rows = [
        ("gRPC", f"{address} ({TLS[settings.tls]})"),
        ("Status", f"http://{admin_address}/"),
        ("Upstream", settings.upstream_url),
        ("Store", settings.state_store + (" (forgotten at a restart)" if settings.state_store == "memory:" else "")),
        ("Token", "the gateway's own, for callers without one" if settings.upstream_token_file else "of each caller"),
    ]
    if settings.changed_limits:
        rows.append(("Changed", ", ".join(f"{name}={value:g}" for name, value in settings.changed_limits.items())))
    rows.append(("Log level", settings.log_level))
    return rows


def _commands(settings: Settings, address: str) -> list[str]:
    lines = [] if settings.upstream_token_file else ["export JOBGATEWAY_TOKEN='<your token>'"]
    options = {
        "off": "",
        "tls": " --ca-file <authority.pem>",
        "mtls": " --ca-file <authority.pem> --cert-file <client.pem> --key-file <client.key>",
    }
    return [*lines, f"jobgateway get 42 --target {reachable(address)}{options[settings.tls]}"]
