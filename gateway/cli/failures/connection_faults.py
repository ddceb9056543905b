"""The mistake behind a failed connection, which gRPC names in words of its own, or not at all."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.cli.exit_codes import NOT_PERMITTED, UNAVAILABLE, USAGE
from gateway.cli.options.targets import TargetUnusable, host_and_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobgateway_client import GatewayError

    from gateway.cli.options.shared import ConnectionOptions

_PROBE_SECONDS = 3.0

# A server that closes a connection with unread bytes resets it.
_ENDED = ("Socket closed", "Connection reset by peer", "Broken pipe")
_ENDED_EARLIER = ("Handshake read failed", "Handshake write failed", "Failed to connect to remote host")
_OTHER_AUTHORITY = ("issuer certificate", "self signed", "self-signed", "verify the first certificate")
# Of c-ares and of the C library.
_NO_SUCH_NAME = (
    "Domain name not found",
    "Misformatted domain name",
    "DNS server returned answer with no data",
    "Name or service not known",
    "No address associated with hostname",
)
# Alerts of TLS about the certificate of a client.
_REFUSES_CERTIFICATE = ("ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_CERTIFICATE", "ALERT_UNSUPPORTED_CERT")


@dataclass(frozen=True)
class Fault:
    """A mistake that explains why no connection was possible.

    Attributes:
        problem: The problem, with the target.
        fix: How to correct it.
        code: Its name in JSON. gRPC says UNAVAILABLE, although most of these mistakes are permanent.
        exit_code: The exit code.

    """

    problem: str
    fix: str
    code: str = "USAGE"
    exit_code: int = USAGE


def _without_credential(problem: str, fix: str) -> Fault:
    return Fault(problem, fix, "UNAUTHENTICATED", NOT_PERMITTED)


# Finding it may take a connection.
@lru_cache(maxsize=1)
def fault(error: GatewayError, call: ConnectionOptions) -> Fault | None:
    """Return the mistake behind a failed connection, or None if it is another error or says no more than gRPC."""
    if not error.connection_failed:
        return None
    message, target = error.message, call.target
    for words, found in _BY_WORDS.items():
        if words in message:
            return found(call, message)
    if _has_any(_REFUSES_CERTIFICATE, message):
        return _certificate_refused(call)
    if _has_any(_ENDED, message) and not _has_any(_ENDED_EARLIER, message):
        if call.secured:
            return _certificate_refused(call)
        if _speaks_tls(target):
            return Fault(f"{target} expects TLS", "add --tls, or --ca-file FILE if its authority is not a public one")
    return None


def _has_any(words: Iterable[str], message: str) -> bool:
    return any(each in message for each in words)


def _not_resolved(call: ConnectionOptions, message: str) -> Fault:
    problem = f"{call.target} cannot be reached (its name does not resolve)"
    fix = "check the name in --target, and the DNS of this machine"
    if _has_any(_NO_SUCH_NAME, message):
        return Fault(problem, fix)
    # The DNS server did not respond, for example.
    return Fault(problem, fix, "UNAVAILABLE", UNAVAILABLE)


def _plain(call: ConnectionOptions, _: str) -> Fault:
    options = {"--tls": call.tls, "--ca-file": call.ca_file, "--cert-file": call.cert_file, "--key-file": call.key_file}
    given = " and ".join(name for name, value in options.items() if value)
    return Fault(f"{call.target} does not use TLS", f"leave out {given}")


def _not_verified(call: ConnectionOptions, message: str) -> Fault:
    said = message.partition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")[:100]
    if not _has_any(_OTHER_AUTHORITY, said):
        return Fault(f"the certificate of {call.target} is not valid ({said})", "renew it on the gateway")
    problem = f"the certificate of {call.target} is from an authority that is not trusted"
    if call.ca_file:
        return Fault(f"{problem} by --ca-file {call.ca_file}", "put the authority of the gateway into this file")
    return Fault(problem, "trust it with --ca-file FILE")


def _other_name(call: ConnectionOptions, _: str) -> Fault:
    return Fault(
        f"the certificate of {call.target} is for another name", "connect by its name; jobgateway doctor shows it"
    )


def _http1(call: ConnectionOptions, _: str) -> Fault:
    return Fault(f"{call.target} speaks HTTP/1, not gRPC", "name the gRPC address of the gateway with --target")


def _not_grpc(call: ConnectionOptions, _: str) -> Fault:
    return Fault(f"{call.target} does not speak gRPC", "name the gRPC address of the gateway with --target")


def _certificate_refused(call: ConnectionOptions) -> Fault:
    # A server of gRPC sends no alert, and nothing else makes it end a connection before its settings.
    if call.cert_file is None:
        return _without_credential(
            f"{call.target} requires a client certificate", "present one with --cert-file and --key-file"
        )
    return _without_credential(
        f"{call.target} rejected the client certificate --cert-file {call.cert_file}",
        "check that it has not expired, and that the gateway trusts its authority",
    )


# In the order in which they count, because some messages have several.
_BY_WORDS: dict[str, Callable[[ConnectionOptions, str], Fault]] = {
    "errors resolving": _not_resolved,
    "DNS resolution failed": _not_resolved,
    "WRONG_VERSION_NUMBER": _plain,
    "CERTIFICATE_VERIFY_FAILED": _not_verified,
    "Hostname Verification Check failed": _other_name,
    "http1.x server": _http1,
    "Expected SETTINGS frame": _not_grpc,
}


def _speaks_tls(target: str) -> bool:
    """Return True if a server agrees on TLS, or sends an alert of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # No data is sent over it.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with suppress(TargetUnusable, OSError):
        try:
            with socket.create_connection(host_and_port(target), _PROBE_SECONDS) as plain, context.wrap_socket(plain):
                return True
        except ssl.SSLError as error:
            return "ALERT" in str(error).upper()
    return False
