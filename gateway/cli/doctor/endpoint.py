"""The address of the gateway, and TLS as the clients of this machine use it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Self

from gateway.cli.client.credentials import TlsUnusable
from gateway.cli.options.targets import host_and_port

if TYPE_CHECKING:
    from gateway.cli.options.shared import ConnectionOptions

_ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


@dataclass(frozen=True)
class Endpoint:
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, target: str) -> Self:
        """Read a target.

        Raises:
            TargetUnusable: It is another kind of name, or has no port.

        """
        return cls(*host_and_port(target))

    @property
    def authority(self) -> str:
        """The address as one text."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def tls_context(call: ConnectionOptions) -> ssl.SSLContext:
    """Return TLS as the Python client uses it, with files that were checked.

    Raises:
        TlsUnusable: The variable of gRPC names authorities that cannot be used.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if call.ca_file:
        context.load_verify_locations(call.ca_file)
    elif own := os.environ.get(_ROOTS):
        try:
            context.load_verify_locations(own)
        except OSError as error:
            raise TlsUnusable(f"{_ROOTS}: {own} cannot be used: {error.strerror}") from error
    else:
        # gRPC's own authorities, and not those of the system.
        context.load_verify_locations(cadata=files("grpc._cython").joinpath("_credentials/roots.pem").read_text())
    if call.cert_file:
        context.load_cert_chain(call.cert_file, call.key_file)
    return context


def unverified_context(call: ConnectionOptions) -> ssl.SSLContext:
    """Return TLS that accepts every certificate, to look at it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if call.cert_file:
        context.load_cert_chain(call.cert_file, call.key_file)
    return context
