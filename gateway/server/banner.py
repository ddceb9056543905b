"""The table that a person at a terminal sees when the gateway serves."""

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
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(settings, address, admin_address):
        # `Text`, because rich would read square brackets as markup.
        table.add_row(name, Text(value))
    console.print(Panel(table, title=f"Job Gateway {__version__}", title_align="left", expand=False))
    console.print("Try it from another terminal. 42 is the uid of one of your jobs:\n")
    for line in _commands(settings, address):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()
    return out.getvalue()


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
    host, port = split(address)
    # A client cannot connect to the address of all interfaces, and a certificate seldom names a number.
    reachable = "localhost" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    target = f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
    lines = [] if settings.upstream_token_file else ["export JOBGATEWAY_TOKEN='<your token>'"]
    options = {
        "off": "",
        "tls": " --ca-file <authority.pem>",
        "mtls": " --ca-file <authority.pem> --cert-file <client.pem> --key-file <client.key>",
    }
    return [*lines, f"jobgateway get 42 --target {target}{options[settings.tls]}"]
