"""Why no connection could be made, and what to check.

The texts quote no one: they are from this module, the system (errno, getaddrinfo) and OpenSSL.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from gateway.openssl import EXPIRED, NOT_YET_VALID, OTHER_HOST_NAME, OTHER_IP_ADDRESS, UNKNOWN_AUTHORITY

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "JOBGATEWAY_UPSTREAM_URL"
PROXY_URL = "JOBGATEWAY_UPSTREAM_PROXY_URL"
# If something responds that is not the API.
CHECK_ADDRESS = f"check the scheme, host and path in {URL}"

NO_REPLY = "no reply in time"
ENDED = "the other side ended the connection"

# As `getaddrinfo` of glibc says it. The text of an exception may be anything.
NOT_RESOLVED = {
    socket.EAI_AGAIN: "Temporary failure in name resolution",
    socket.EAI_FAIL: "Non-recoverable failure in name resolution",
    socket.EAI_NODATA: "No address associated with hostname",
    socket.EAI_NONAME: "Name or service not known",
}
OTHER_HOST = {
    OTHER_HOST_NAME: "the certificate is for another host name",
    OTHER_IP_ADDRESS: "the certificate is for another IP address",
}
# What OpenSSL says if the first bytes are not TLS. It depends on the bytes, and on its version.
NO_TLS = frozenset(
    {"BAD_RECORD_TYPE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
PROXY_REFUSALS = {
    403: "the proxy does not allow this host",
    407: "the proxy asks for credentials, which the gateway does not have",
}


class Step(Enum):
    """A step of opening a connection. With a proxy, the first two are those of its address."""

    RESOLVE = auto()
    CONNECT = auto()
    TUNNEL = auto()
    HANDSHAKE = auto()


class TunnelRefused(OSError):
    """A proxy did not open a tunnel. `status` is that of its response, None if that is not HTTP."""

    def __init__(self, status: int | None) -> None:
        super().__init__("the proxy refused the tunnel")
        self.status = status


class ConnectFailure(NamedTuple):
    """Why no connection could be made: in short, and as a message that says what to check."""

    cause: str
    message: str


def connect_failure(error: OSError, step: Step, *, proxy: bool) -> ConnectFailure:
    """Return the failure of a step. `proxy` says whether the connection goes through a proxy."""
    cause, check = _EXPLAIN[step](error, proxy)
    return ConnectFailure(cause, f"no connection to the upstream could be made: {cause}; {check}")


def cause_of_loss(error: BaseException | None) -> str:
    """Return the cause of the loss of a connection in short."""
    return _system_or_tls_text(error) or ENDED


def _resolve(error: OSError, proxy: bool) -> tuple[str, str]:
    setting = PROXY_URL if proxy else URL
    if isinstance(error, socket.gaierror):
        cause = NOT_RESOLVED.get(error.errno or 0, f"name resolution failed with error {error.errno}")
    else:
        # Of resolver.py, which writes its own texts.
        cause = error.strerror or "the resolver does not respond"
    return cause, f"check the host in {setting}, and DNS"


def _connect(error: OSError, proxy: bool) -> tuple[str, str]:
    setting = PROXY_URL if proxy else URL
    subject = "the proxy" if proxy else "the upstream"
    numbers = _numbers_of(error)
    text = ", ".join(map(os.strerror, numbers)) or (NO_REPLY if isinstance(error, TimeoutError) else "unknown error")
    cause = f"{text} (by the proxy)" if proxy else text
    # If an address of another family cannot be reached, the refusal matters: many machines have no IPv6.
    if errno.ECONNREFUSED in numbers:
        return cause, f"check host and port in {setting}, and whether {subject} runs"
    return cause, f"check the host in {setting}, and whether a firewall or network policy blocks the way"


def _numbers_of(error: OSError) -> list[int]:
    """Return the different error numbers of all addresses, in the order of the attempts."""
    if error.errno:
        return [error.errno]
    # aiohappyeyeballs joins the texts of different errors, and drops the errors.
    return [int(number) for number in dict.fromkeys(re.findall(r"\[Errno (\d+)\]", str(error)))]


def _tunnel(error: OSError, _: bool) -> tuple[str, str]:
    if not isinstance(error, TunnelRefused):
        return f"{_system_or_tls_text(error) or NO_REPLY} (by the proxy)", f"check the proxy in {PROXY_URL}"
    if error.status is None:
        return "the proxy's response to CONNECT is not HTTP", f"check host and port in {PROXY_URL}"
    problem = PROXY_REFUSALS.get(error.status, "the proxy could not connect to the upstream")
    return f"{problem} (HTTP {error.status} to CONNECT)", f"check the proxy in {PROXY_URL}, and the host in {URL}"


def _handshake(error: OSError, _: bool) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _rejected_certificate(error)
    if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
        return "the upstream does not speak TLS at this port", f"check the scheme (http or https) and the port in {URL}"
    return (
        f"{_system_or_tls_text(error) or NO_REPLY} (during the TLS handshake)",
        f"check the scheme and the port in {URL}, and the TLS settings of the upstream",
    )


def _rejected_certificate(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    code = error.verify_code
    if code in OTHER_HOST:
        # Python's own text quotes the host.
        return OTHER_HOST[code], f"check the host in {URL}"
    checks = dict.fromkeys(UNKNOWN_AUTHORITY, "name the file of its authority in SSL_CERT_FILE")
    checks |= {EXPIRED: "renew the certificate of the upstream", NOT_YET_VALID: "check the clocks of both machines"}
    return error.verify_message, checks.get(code, "check the certificate of the upstream")


def _system_or_tls_text(error: BaseException | None) -> str | None:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return None if error is None or isinstance(error, TimeoutError) else ENDED


_EXPLAIN: dict[Step, Callable[[OSError, bool], tuple[str, str]]] = {
    Step.RESOLVE: _resolve,
    Step.CONNECT: _connect,
    Step.TUNNEL: _tunnel,
    Step.HANDSHAKE: _handshake,
}
