"""The first bytes of a server, with and without TLS, over a blocking socket: asyncio hides the alerts of TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.openssl import NO_CHECK_TIME
from gateway.threads import run_detached, wait

if TYPE_CHECKING:
    from gateway.cli.doctor.endpoint import Endpoint

PROBE_SECONDS = 5.0

# The preface of HTTP/2 with an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
_SETTINGS_FRAME = 4
_TLS_ALERT = b"\x15\x03"
_SHOWN_BYTES = 512


@dataclass
class Probe:
    """The reaction of a server to the preface of HTTP/2.

    Attributes:
        error: The error of TCP or TLS, or None.
        first: The first bytes, empty if the server closed the connection; None if it sent nothing in time.
        version: The version of TLS.
        alpn: The protocol that TLS agreed on.
        certificate: The certificate of the server as `ssl` decodes it, if it was verified.

    """

    error: OSError | None = None
    first: bytes | None = None
    version: str = ""
    alpn: str | None = None
    certificate: dict[str, Any] = field(default_factory=dict)

    @property
    def shaken(self) -> bool:
        """True if TLS was agreed on."""
        return bool(self.version)

    @property
    def speaks_http2(self) -> bool:
        """True if the server sent its settings."""
        return not self.speaks_http1 and (self.first or b"")[3:4] == bytes((_SETTINGS_FRAME,))

    @property
    def speaks_http1(self) -> bool:
        """True if the server responded with HTTP/1."""
        return (self.first or b"").startswith(b"HTTP/1")

    @property
    def alerts(self) -> bool:
        """True if the server responded with an alert of TLS to bytes without TLS."""
        return (self.first or b"").startswith(_TLS_ALERT)


async def probe(endpoint: Endpoint, context: ssl.SSLContext | None) -> Probe:
    """Send the preface of HTTP/2, over TLS if there is a context."""
    running = run_detached("doctor-probe", lambda: _probe(endpoint, context))
    await wait(running)
    return running.result()


def _probe(endpoint: Endpoint, context: ssl.SSLContext | None) -> Probe:
    found = Probe()
    try:
        with socket.create_connection((endpoint.host, endpoint.port), PROBE_SECONDS) as plain:
            if context is None:
                found.first = _first(plain)
                return found
            with context.wrap_socket(plain, server_hostname=endpoint.host) as secured:
                found.version, found.alpn = secured.version() or "", secured.selected_alpn_protocol()
                found.certificate = secured.getpeercert() or {}
                found.first = _first(secured)
    except OSError as error:
        found.error = error
    return found


def _first(connected: socket.socket) -> bytes | None:
    connected.sendall(_PREFACE)
    try:
        return connected.recv(_SHOWN_BYTES)
    except TimeoutError:
        return None


async def shown_certificate(endpoint: Endpoint, context: ssl.SSLContext) -> dict[str, Any]:
    """Return the certificate of the server without verification, or an empty one.

    `context` verifies nothing. It is changed.
    """
    running = run_detached("doctor-certificate", lambda: _shown_certificate(endpoint, context))
    await wait(running)
    return running.result()


def _shown_certificate(endpoint: Endpoint, context: ssl.SSLContext) -> dict[str, Any]:
    # `ssl` decodes a certificate only if it is trusted. So trust this one, at any time.
    with contextlib.suppress(OSError, ValueError):
        raw = _secured(endpoint, context)[0]
        if raw is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
            context.load_verify_locations(cadata=raw)
            return _secured(endpoint, context)[1]
    return {}


def _secured(endpoint: Endpoint, context: ssl.SSLContext) -> tuple[bytes | None, dict[str, Any]]:
    with (
        socket.create_connection((endpoint.host, endpoint.port), PROBE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
    ):
        return secured.getpeercert(binary_form=True), secured.getpeercert() or {}
