"""nginx in front of the upstream: a TLS upstream, as in production."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tests.support.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

# Debian installs it into a folder that is not on the PATH of ordinary users.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# nginx's defaults: how long it keeps an idle connection, and for how many requests.
KEEPALIVE_SECONDS, KEEPALIVE_REQUESTS = 75.0, 1_000
UNLIMITED_REQUESTS = 1_000_000_000
START_SECONDS = 10.0

CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format connections '$connection $ssl_session_reused';
    access_log {log};
    keepalive_timeout {keepalive_ms}ms; keepalive_requests {keepalive_requests};
    upstream plain {{ server {plain}; keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate certificate; ssl_certificate_key key; ssl_protocols TLSv1.2 TLSv1.3;
        location / {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


@dataclass(frozen=True)
class TlsUpstream:
    """An upstream behind nginx, with TLS and HTTP/1.1.

    Attributes:
        url: its base URL.
        environment: the variables with which a process trusts it.
        port: its port.
        log: has a line per request if connections are counted.
    """

    url: str
    environment: dict[str, str]
    port: int
    log: Path

    def requests(self) -> list[str]:
        """Return a line for each request so far: the number of its connection, and `r` if TLS was resumed."""
        return [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def count_connections(requests: list[str]) -> Counter[str]:
    """Return how many connections the requests had: in all, and those with a full or a resumed TLS handshake."""
    connections = dict(line.split() for line in requests)
    kinds = Counter("resumed" if kind == "r" else "full" for kind in connections.values())
    return kinds + Counter(all=len(connections))


def is_missing() -> bool:
    """Return whether nginx is missing; if so, say that rows are left out."""
    if NGINX is None:
        typer.echo("           nginx is missing, so the rows with a TLS upstream are left out", err=True)
    return NGINX is None


@contextmanager
def with_tls(
    plain_url: str,
    *,
    counts: bool = False,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    keepalive_requests: int = UNLIMITED_REQUESTS,
) -> Iterator[TlsUpstream]:
    """Run nginx in front of an upstream.

    Args:
        plain_url: The base URL of the upstream.
        counts: Write the log from which connections are counted.
        keepalive_seconds: How long nginx keeps an idle connection.
        keepalive_requests: For how many requests nginx keeps a connection.

    """
    assert NGINX is not None, "call `is_missing` first"
    folder = Path(tempfile.mkdtemp(prefix="benchmark-nginx-"))
    authority = Authority()
    certificate = authority.server()
    (folder / "authority").write_bytes(authority.pem)
    (folder / "certificate").write_bytes(certificate.chain)
    (folder / "key").write_bytes(certificate.key)
    log = folder / "log"
    log.touch()
    port = _free_port()
    configuration = CONFIGURATION.format(
        log="log connections" if counts else "off",
        keepalive_ms=round(keepalive_seconds * 1_000),
        keepalive_requests=keepalive_requests,
        plain=plain_url.split("/")[2],
        port=port,
    )
    (folder / "nginx.conf").write_text(configuration)
    with (folder / "errors").open("wb") as errors:
        nginx = subprocess.Popen(
            [NGINX, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=errors
        )
    try:
        _wait_until_open(nginx, port, folder / "errors")
        environment = {"SSL_CERT_FILE": str(folder / "authority")}
        yield TlsUpstream(f"https://127.0.0.1:{port}/api", environment, port, log)
    finally:
        nginx.kill()
        nginx.wait()
        shutil.rmtree(folder)


def _free_port() -> int:
    # nginx cannot report a port that the system chose.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(nginx: subprocess.Popen[bytes], port: int, errors: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while nginx.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nginx did not start: {errors.read_text()[-2_000:]}")
