"""Failed TLS handshakes in the log of a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.server.handshakes import CLOSED, failures
from tests.server.test_process import Served, process
from tests.support.certificates import Authority, Certificate
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import MountedSecret
    from tests.support.upstream import ScriptedUpstream

LAST_WEEK = datetime.now(UTC) - timedelta(days=7)
TEST_SECONDS = 60.0

TRACE = b"""I1128 04:29:06.885287   1891 handshaker.cc:155] CallNextHandshakerLocked: error=OK shutdown=false index=1, \
args={endpoint=0x7e, args={grpc.internal.endpoint_peer_address=ipv4:10.0.0.1:1, a=0x55}, exit_early=0}
I1128 04:29:06.889132   18914 handshaker.cc:155] CallNextHandshakerLocked: error=UNKNOWN: Ssl handshake failed \
(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: \
certificate has expired: OK
=== Source Location Trace: ===
src/core/util/status_helper.cc:68
 shutdown=false index=2, args={args={grpc.internal.endpoint_peer_address=ipv6:%5B::1%5D:48098, \
grpc.internal.server_credentials=0x55}, exit_early=0}
I1128 04:29:08.050832   18911 handshaker.cc:155] CallNextHandshakerLocked: error=UNAVAILABLE: \x1b[31m no peer
I1128 04:29:08.050832   18911 handshaker.cc:155] CallNextHandshakerLocked: error=UNAVAILABLE: Handshake read failed \
(Socket closed) shutdown=false index=2, args={args={grpc.internal.endpoint_peer_address=unix:, \
grpc.internal.server_credentials=0x55}, exit_early=0}
I1128 04:29:09.050832   18911 handshaker.cc:155] CallNextHandshakerLocked: error=UNKNOWN: Tls handshake failed of a \
client shutdown=false index=2, args={args={grpc.internal.endpoint_peer_address=ipv4:10.0.0.1:1, a=0x55}, exit_early=0}
I1128 04:29:10.769079   18911 channel_trace.h:396] the last record
"""


@pytest.mark.parametrize("size", [1, 7, 64, len(TRACE)])
def test_failures_are_found_in_pieces_of_any_size(size: int) -> None:
    found, rest = [], b""
    for start in range(0, len(TRACE), size):
        new, rest = failures(rest + TRACE[start : start + size])
        found += new
    assert found == [("CERTIFICATE_VERIFY_FAILED: certificate has expired", "[::1]:48098"), (CLOSED, "unix:")]


def test_a_reason_without_details_has_only_its_code() -> None:
    trace = TRACE.replace(b"certificate has expired: OK", b"OK")
    assert failures(trace)[0][0] == ("CERTIFICATE_VERIFY_FAILED", "[::1]:48098")


def test_endless_text_is_not_kept() -> None:
    rest = b""
    for _ in range(100):
        found, rest = failures(rest + b"x" * 10_000)
        assert found == []
    assert len(rest) < 20_000


@pytest.mark.parametrize(
    "hostile",
    [
        b"UNKNOWN: %s",
        b"UNKNOWN: %s grpc.internal.endpoint_peer_address=ipv4:10.0.0.1:1, %s",
        b"UNKNOWN: %s grpc.internal.endpoint_peer_address=%s grpc.internal.server_credentials=0x55",
        b"UNKNOWN: %s\n%s grpc.internal.server_credentials=0x55",
    ],
)
def test_the_time_for_a_hostile_record_grows_linearly(hostile: bytes) -> None:
    def seconds(size: int) -> float:
        text = hostile.replace(b"%s", b"e" * (size // hostile.count(b"%s")))
        trace = b"I1128 04:29:06.885287 1 x] CallNextHandshakerLocked: error=%s\nI1128 x] " % text
        taken = []
        for _ in range(5):
            start = time.thread_time()
            failures(trace)
            taken.append(time.thread_time() - start)
        return min(taken)

    # Quadratic time would be 100 times as long.
    assert seconds(8_000) < 30 * seconds(800)


def connect(address: str, context: ssl.SSLContext | None, data: bytes = b"") -> str:
    """Connect, try a handshake or send bytes, and return the own address."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TEST_SECONDS) as plain:
        own = "{}:{}".format(*plain.getsockname())
        with contextlib.suppress(OSError):
            if context is None:
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                plain.recv(1)
            else:
                with context.wrap_socket(plain, server_hostname="localhost") as connection:
                    connection.recv(1)
    return own


async def failure(server: Served, context: ssl.SSLContext | None, data: bytes = b"") -> tuple[str, str]:
    """Return the reason and the level in the line about a client that cannot connect."""
    address = next(line for line in server.lines if line["event"] == "serving")["address"]
    own = await asyncio.to_thread(connect, address, context, data)
    line = await server.logged("tls.handshake_failed")
    assert line["address"] == own
    return line["reason"], line["level"]


@pytest.mark.slow
async def test_a_failed_handshake_is_logged_with_its_reason(
    upstream: ScriptedUpstream, mounted: MountedSecret, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "authority.pem").write_bytes(authority.pem)

    def context(certificate: Certificate | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
        made.set_alpn_protocols(["h2"])
        if certificate is not None:
            (tmp_path / "client.pem").write_bytes(certificate.key + certificate.chain)
            made.load_cert_chain(tmp_path / "client.pem")
        return made

    files = {
        "tls_cert_file": str(mounted.cert),
        "tls_key_file": str(mounted.key),
        "tls_client_ca_file": str(mounted.ca),
    }
    async with process(upstream, **files) as server, asyncio.timeout(TEST_SECONDS):
        await server.logged("serving")
        assert await failure(server, context()) == ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "warning")
        expired = context(authority.client("late", not_after=LAST_WEEK))
        assert await failure(server, expired) == ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "warning")
        unknown = "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"
        assert await failure(server, context(Authority().client("mallory"))) == (unknown, "warning")
        assert await failure(server, None, b"GET / HTTP/1.1\r\n\r\n") == ("HTTP_REQUEST", "warning")
        assert await failure(server, None) == (CLOSED, "info")
        # The same kinds again leave no lines, and a good client leaves none.
        address = next(line for line in server.lines if line["event"] == "serving")["address"]
        await asyncio.to_thread(connect, address, expired)
        await asyncio.to_thread(connect, address, context(authority.client("billing")))
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert sum(line["event"] == "tls.handshake_failed" for line in server.lines) == 5


@pytest.mark.slow
def test_a_crash_still_writes_its_tracebacks() -> None:
    program = "import os; from gateway.server import handshakes; handshakes.report(); os.abort()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == -signal.SIGABRT
    assert b"Fatal Python error: Aborted" in done.stderr


@pytest.mark.slow
def test_a_full_pipe_blocks_no_writer() -> None:
    program = """
import os, time
from gateway.server import handshakes
# The thread reads once, and never again.
handshakes.PAUSE_SECONDS = 3600.0
real = handshakes.report()
written = 0
try:
    while True:
        written += os.write(2, b"x" * 4096)
except BlockingIOError:
    os.write(real, b"%d" % written)
os._exit(0)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=TEST_SECONDS
    )
    assert int(done.stderr) < 1 << 20
