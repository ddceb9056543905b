"""The listener's certificates, read again when they change on disk."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from gateway.auth.reloading import InvalidFile, ReloadingFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


CERT, KEY, CLIENT_CA = "JOBGATEWAY_TLS_CERT_FILE", "JOBGATEWAY_TLS_KEY_FILE", "JOBGATEWAY_TLS_CLIENT_CA_FILE"

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Loaded:
    """A usable set of files. `expires` is as the certificate says it; `doubt` is why a client would refuse it."""

    contents: Mapping[str, bytes] = field(repr=False)  # with the key
    expires: str | None
    doubt: str | None

    def configuration(self) -> Any:
        """A new configuration for grpc, which takes each only once."""
        return grpc.ssl_server_certificate_configuration(
            [(self.contents[KEY], self.contents[CERT])], root_certificates=self.contents.get(CLIENT_CA)
        )


class Certificates:
    """The certificate, its key, and the authority of clients, if they have to show a certificate too.

    Clients that have to show one do so on each connection: no TLS session is resumed. Raises `ConfigError` if the files
    cannot be used.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = {CERT: cert, KEY: key} | ({CLIENT_CA: client_ca} if client_ca else {})
        self._files = ReloadingFiles(self._paths, self._load)
        self._used = self._files.last
        self._lock = threading.Lock()
        _tell(self._used)

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for a port of grpc; it asks for each handshake whether something has changed."""
        return grpc.dynamic_ssl_server_credentials(
            self._used.configuration(), self._fetch, require_client_authentication=CLIENT_CA in self._paths
        )

    def _fetch(self) -> Any:
        # In threads of grpc, several at once. None: go on as before.
        latest = self._files.latest()
        with self._lock:
            changed, self._used = latest is not self._used, latest
        if changed:
            _tell(latest)
        # A resumed session checks neither expiry nor authority. The keys of session tickets live as long as a
        # configuration, and grpc has no switch for them, so each handshake gets a configuration of its own.
        return latest.configuration() if changed or CLIENT_CA in latest.contents else None

    def _load(self, contents: Mapping[str, bytes]) -> _Loaded:
        expires, doubt = _inspect(self._paths[CERT], self._paths[KEY])
        if CLIENT_CA in self._paths:
            _trusting(self._paths[CLIENT_CA], CLIENT_CA)
        return _Loaded(contents, expires, doubt)


def _tell(loaded: _Loaded) -> None:
    if loaded.doubt is None:
        _log.info("certificate in use", expires=loaded.expires)
    else:
        _log.warning("certificate in use that clients may refuse", why=loaded.doubt)


def _inspect(cert: Path, key: Path) -> tuple[str | None, str | None]:
    """When a certificate expires, or why a client would refuse it. Raises `InvalidFile` for no pair."""
    client = _trusting(cert, CERT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask the terminal for one.
        server.load_cert_chain(cert, key, password="")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidFile(KEY, f"the key does not belong to the certificate of {CERT}") from error
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        why = f"{key} is no private key, in PEM without a password, that the certificate can be used with ({reason})"
        raise InvalidFile(KEY, why) from error
    try:
        # The standard library shows a certificate only to the other side of a handshake.
        shown = _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        return None, error.verify_message
    except ssl.SSLError as error:
        raise InvalidFile(CERT, f"no handshake succeeds with it: {error.reason}") from error
    return str(shown.get("notAfter")), None


def _trusting(path: Path, variable: str) -> ssl.SSLContext:
    """The client's side of TLS that trusts each certificate in a file. Raises `InvalidFile` where there is none."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(path)
    except OSError as error:
        raise InvalidFile(variable, f"{path} holds no certificate in PEM that can be read") from error
    return client


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """What `client` sees of the certificate of `server`, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    waiting = True
    while waiting:
        waiting = False
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting = True
    return sides[0].getpeercert() or {}
