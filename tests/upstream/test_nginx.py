"""Submissions over HTTP/2 to nginx."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.support.http2 import client_tls
from tests.support.raw import free_port
from tests.support.transports import PatientTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.tools

TEST_SECONDS = 30.0
MIB = 1 << 20


# nginx

# The user of the workers, if the tests run as root: otherwise they could not read the folder.
NGINX = """
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        keepalive_requests 3;
        client_max_body_size 16k;
        location /text {{ return 201 "$server_protocol $connection"; }}
        location /file {{ root {folder}; error_page 405 =200 $uri; }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[str, trustme.CA]]:
    """Run nginx with TLS and HTTP/2. It listens when its command has ended."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert not os.environ.get("CI"), "nginx is missing"
        pytest.skip("nginx is not installed")
    authority, port = trustme.CA(), free_port()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    (tmp_path / "file").write_bytes(bytes(20 * MIB))
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port))
    command = [program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - fixed
    try:
        yield f"https://localhost:{port}", authority
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, capture_output=True)  # noqa: S603 - fixed


async def test_nginx_serves_every_post(nginx: tuple[str, trustme.CA]) -> None:
    """nginx ends each connection with a GOAWAY after the third request."""
    url, authority = nginx
    transport = PatientTransport(tls=client_tls(authority))
    async with asyncio.timeout(TEST_SECONDS):
        texts = [(await transport.request("POST", f"{url}/text", {}, b"{}")).body for _ in range(12)]
        assert {text.split()[0] for text in texts} == {b"HTTP/2.0"}
        assert Counter(Counter(texts).values()) == {3: 4}
        for size, status in ((16 << 10, 201), (8 * MIB, 413)):
            assert (await transport.request("POST", f"{url}/text", {}, bytes(size))).status == status
        assert len((await transport.request("POST", f"{url}/file", {}, b"{}")).body) == 20 * MIB
        await transport.aclose()
