"""The check of TLS: the handshake, the certificate, the protocol, and the client's certificate."""

from __future__ import annotations

import re
import shlex
import ssl
import time
from typing import TYPE_CHECKING, Any

from gateway.cli.doctor.endpoint import tls_context, unverified_context
from gateway.cli.doctor.findings import Finding, Outcome, ok, skipped
from gateway.cli.doctor.probe import PROBE_SECONDS, Probe, probe, shown_certificate
from gateway.openssl import EXPIRED, NOT_YET_VALID, OTHER_HOST_NAME, OTHER_IP_ADDRESS, UNKNOWN_AUTHORITY

if TYPE_CHECKING:
    from gateway.cli.doctor.endpoint import Endpoint
    from gateway.cli.doctor.repeat import Repeat
    from gateway.cli.options.shared import ConnectionOptions

SOON_DAYS = 14
_DAY = 86_400

_HTTP1_NOTE = "it may be an HTTP/1.1 proxy, or the admin address of the gateway"


async def check(endpoint: Endpoint, call: ConnectionOptions, repeat: Repeat) -> list[Finding]:
    """Check TLS, or its absence, and that HTTP/2 follows."""
    if call.secured:
        return await _secured(endpoint, call, repeat)
    found = await probe(endpoint, None)
    unused = skipped("tls", "not used (no --tls)")
    if found.speaks_http2:
        return [unused, ok("http2", "the server speaks HTTP/2 in plain text")]
    if found.alerts or not found.speaks_http1 or b"HTTPS" in (found.first or b""):
        behind = await probe(endpoint, unverified_context(call))
        if behind.shaken or _alert(behind.error):
            text = "the server speaks TLS, and this command does not"
            return [Finding("tls", Outcome.FAIL, text, "use TLS", (repeat("--tls"),))]
    return [unused, _no_http2(found)]


async def _secured(endpoint: Endpoint, call: ConnectionOptions, repeat: Repeat) -> list[Finding]:
    found = await probe(endpoint, tls_context(call))
    if isinstance(found.error, ssl.SSLCertVerificationError):
        shown = await shown_certificate(endpoint, unverified_context(call))
        return [_unverified(found.error, shown, endpoint, repeat)]
    if _has_no_alpn(found):
        return [_no_alpn()]
    if not found.shaken:
        plain = await probe(endpoint, None)
        if plain.speaks_http2 or plain.speaks_http1:
            text = "the server speaks plain text, and this command uses TLS"
            return [
                Finding("tls", Outcome.FAIL, text, "leave TLS out, or turn it on in the gateway", (repeat.plain(),))
            ]
    if _is_broken(found.error):
        return [_broken(found.error)]
    if found.error is not None or found.first == b"":
        return [_rejected(found, call, repeat)]
    return [_accepted(found), ok("http2", "agreed on") if found.speaks_http2 else _no_http2(found)]


def _is_broken(error: OSError | None) -> bool:
    """Return True if a missing or rejected client certificate cannot be the cause."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _alert(error) in ("", "protocol version", "internal error")
    return isinstance(error, TimeoutError)


def _broken(error: OSError | None) -> Finding:
    said = f"the server {_said(error)}" if isinstance(error, TimeoutError) or _alert(error) else str(error)
    fix = "check that the server supports TLS 1.2 or later, and look at its log"
    if isinstance(error, TimeoutError):
        fix = "the port accepts connections, so its process may hang: look at its log, and restart it if it stays so"
    return Finding("tls", Outcome.FAIL, f"the handshake fails: {said}", fix)


def _has_no_alpn(found: Probe) -> bool:
    if _alert(found.error) == "no application protocol":
        return True
    return found.shaken and found.alpn != "h2" and bool(found.first)


def _accepted(found: Probe) -> Finding:
    left = ssl.cert_time_to_seconds(found.certificate["notAfter"]) - time.time()
    text = f"{found.version}, certificate of {_issuer(found.certificate)}, valid for {left / _DAY:,.0f} days"
    if left > SOON_DAYS * _DAY:
        return ok("tls", text)
    fix = "renew the certificate; the gateway reads its new files without a restart"
    return Finding("tls", Outcome.WARN, text, fix)


def _unverified(
    error: ssl.SSLCertVerificationError, certificate: dict[str, Any], endpoint: Endpoint, repeat: Repeat
) -> Finding:
    names = _names(certificate)
    listed = ", ".join(names) or "no name"
    paste: tuple[str, ...]
    paste = (f"openssl s_client -connect {endpoint.authority} </dev/null | openssl x509 -noout -subject -dates",)
    if error.verify_code == EXPIRED:
        text = f"the certificate has expired on {certificate.get('notAfter', 'an unknown day')}"
        fix = "renew it; the gateway reads its new files without a restart. This shows the certificate in use"
    elif error.verify_code == NOT_YET_VALID:
        text = f"the certificate is valid from {certificate.get('notBefore', 'a later day')}"
        fix = "check the clocks of both machines; this shows the certificate in use"
    elif error.verify_code in (OTHER_HOST_NAME, OTHER_IP_ADDRESS):
        text = f"the certificate is not for {endpoint.host}; it is for {listed}"
        fix = "connect by a name of the certificate, or issue one that has this name"
        # A wildcard is no name to connect to.
        paste = tuple(repeat.to(name, endpoint.port) for name in names if "*" not in name)[:1] or paste
    elif error.verify_code in UNKNOWN_AUTHORITY:
        text = f"the certificate is from {_issuer(certificate)}, an authority that this command does not trust"
        fix = "get the certificate of that authority from the gateway's operator, save it as ca.crt, and trust it"
        paste = (repeat("--ca-file", "ca.crt"),)
    else:
        text = f"the certificate is not accepted: {error.verify_message}"
        fix = "this shows the certificate in use"
    return Finding("tls", Outcome.FAIL, text, fix, paste)


def _rejected(found: Probe, call: ConnectionOptions, repeat: Repeat) -> Finding:
    said = _said(found.error)
    if call.cert_file is None:
        # gRPC's servers say nothing; others send an alert.
        text = f"the server {said} after a handshake without a client certificate: it probably requires one (mTLS)"
        fix = "present a certificate of an authority in the gateway's JOBGATEWAY_TLS_CLIENT_CA_FILE"
        return Finding(
            "tls", Outcome.FAIL, text, fix, (repeat("--cert-file", "client.crt", "--key-file", "client.key"),)
        )
    text = f"the server {said} after it received the client certificate: it probably rejects {call.cert_file}"
    fix = "check that it has not expired, and that its authority is in the gateway's JOBGATEWAY_TLS_CLIENT_CA_FILE"
    return Finding(
        "tls", Outcome.FAIL, text, fix, (f"openssl x509 -noout -issuer -dates -in {shlex.quote(str(call.cert_file))}",)
    )


def _said(error: OSError | None) -> str:
    if alert := _alert(error):
        return f"sent the alert {alert!r}"
    if isinstance(error, TimeoutError):
        return f"did not respond within {PROBE_SECONDS:g} s"
    return "closed the connection"


def _alert(error: OSError | None) -> str:
    """Return the alert of TLS in an error, or an empty text."""
    # `reason` is unset for alerts that Python has no name for.
    found = re.search(r"alert ([a-z ]+)", str(error).lower()) if isinstance(error, ssl.SSLError) else None
    return found[1].strip() if found else ""


def _no_alpn() -> Finding:
    text = "the server does not offer HTTP/2 (h2) by ALPN, so gRPC clients refuse it"
    fix = "turn HTTP/2 on where TLS ends; in nginx and HAProxy"
    paste = ("listen 443 ssl http2;", "bind :443 ssl crt gateway.pem alpn h2")
    return Finding("tls", Outcome.FAIL, text, fix, paste)


def _no_http2(found: Probe) -> Finding:
    fix = "name the gRPC address of the gateway; if a proxy is at this address, it must accept HTTP/2"
    paste = ("listen 50050 http2;", "bind :50050 proto h2")
    if isinstance(found.error, OSError):
        return Finding(
            "http2", Outcome.FAIL, f"the connection broke: {found.error.strerror or found.error}", fix, paste
        )
    if found.speaks_http1:
        line = (found.first or b"").partition(b"\r\n")[0].decode("latin-1")[:60]
        server = _server(found.first or b"")
        text = f"the server{server} responds with {line}, not with HTTP/2: {_HTTP1_NOTE}"
    elif found.first is None:
        text = f"the server says nothing for {PROBE_SECONDS:g} s: its process hangs, or does not speak HTTP/2"
        fix = f"look at the log of the gateway, and restart it if it stays so; or {fix}"
    elif found.first:
        text = f"the server responds with {found.first[:16]!r}, which is not HTTP/2"
    else:
        text = "the server closes the connection: it does not speak HTTP/2"
    return Finding("http2", Outcome.FAIL, text, fix, paste)


def _server(head: bytes) -> str:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"server":
            return f" ({value.strip().decode('latin-1')[:40]})"
    return ""


def _issuer(certificate: dict[str, Any]) -> str:
    fields = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    return str(fields.get("commonName") or fields.get("organizationName") or "an unnamed authority")


def _names(certificate: dict[str, Any]) -> list[str]:
    return [str(name) for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
