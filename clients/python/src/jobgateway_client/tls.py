"""The client's side of TLS: the trusted authorities, and the client's own certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc

if TYPE_CHECKING:
    import os

# All public authorities together have a quarter of this.
_LARGEST_BYTES = 1 << 20


class TlsFileError(ValueError):
    """A file that TLS cannot use.

    Attributes:
        names: The parameters of `Tls.from_files` that name the file or the files.
        problem: The problem, without the names and paths of the files.

    """

    def __init__(self, names: tuple[str, ...], problem: str) -> None:
        super().__init__(f"{' and '.join(names)}: {problem}")
        self.names = names
        self.problem = problem

    def __reduce__(self) -> tuple[type[TlsFileError], tuple[object, ...]]:
        return type(self), (self.names, self.problem)


@dataclass(frozen=True)
class Tls:
    """TLS for a client; all values are PEM.

    Attributes:
        ca: The certificates of the trusted authorities, or None for those that come with gRPC.
        cert: The client's certificate and its chain, for mutual TLS. It needs `key`.
        key: The private key of `cert`, without a password.

    """

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None

    def __repr__(self) -> str:
        # The key is a secret.
        return f"Tls(ca={self.ca is not None}, cert={self.cert is not None}, key={self.key is not None})"

    @classmethod
    def from_files(
        cls,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Read and check the files.

        gRPC reports a useless file only in its own log, and to the call as a failed connection.

        Raises:
            TlsFileError: A file cannot be read or used, or `cert_file` and `key_file` do not belong together.

        """
        if (cert_file is None) != (key_file is None):
            raise TlsFileError(("cert_file", "key_file"), "both are needed; give both or neither")
        tls = cls(_read("ca_file", ca_file), _read("cert_file", cert_file), _read("key_file", key_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if ca_file:
                context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise TlsFileError(("ca_file",), "not a certificate in PEM; give one or more certificates") from error
        try:
            if cert_file:
                # Without a password, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(cert_file, key_file, password="")
        except ssl.SSLError as error:
            raise _pair_error(error, tls.cert or b"", tls.key or b"") from error
        return tls

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials for a channel."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


def _pair_error(error: ssl.SSLError, cert: bytes, key: bytes) -> TlsFileError:
    """Return the error for a certificate and a key that OpenSSL rejected as a pair."""
    if b"-----BEGIN CERTIFICATE" not in cert:
        return TlsFileError(("cert_file",), "not a certificate in PEM; give a certificate and its chain")
    if b"PRIVATE KEY-----" not in key:
        return TlsFileError(("key_file",), "not a private key in PEM; give the key of the certificate")
    if b"ENCRYPTED" in key:
        fix = "write it without one: openssl pkey -in FILE -out NEW_FILE"
        return TlsFileError(("key_file",), f"the key has a password; {fix}")
    if error.reason == "KEY_VALUES_MISMATCH":
        return TlsFileError(("cert_file", "key_file"), "the key is not the one of the certificate; give a pair")
    return TlsFileError(("cert_file", "key_file"), "damaged, or of an unsupported kind; create the pair again")


def _read(name: str, file: str | os.PathLike[str] | None) -> bytes | None:
    if file is None:
        return None
    try:
        with Path(file).open("rb") as opened:
            contents = opened.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise TlsFileError((name,), f"cannot be read: {error.strerror}") from error
    if len(contents) > _LARGEST_BYTES:
        raise TlsFileError((name,), f"has more than {_LARGEST_BYTES:,} bytes; check that it is the right file")
    return contents
