"""The certificates of the gRPC port, which are reloaded when they change on disk."""

from __future__ import annotations

import math
import ssl
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from gateway.auth.reloading import InvalidFile, ReloadingFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


CERT, KEY, CLIENT_CA = "JOBGATEWAY_TLS_CERT_FILE", "JOBGATEWAY_TLS_KEY_FILE", "JOBGATEWAY_TLS_CLIENT_CA_FILE"

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL. The ssl module does not name it.
NO_CHECK_TIME = 0x20_0000

_log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """A usable set of files.

    Attributes:
        contents: The files, by variable.
        expiry: When the certificate expires, in seconds since the epoch; NaN if that cannot be found out.
        doubt: Why a client may reject the certificate, or None.
    """

    contents: Mapping[str, bytes] = field(repr=False)  # it has the key
    expiry: float
    doubt: str | None

    def configuration(self) -> Any:
        """Return a new configuration, because grpc accepts each only once."""
        return grpc.ssl_server_certificate_configuration(
            [(self.contents[KEY], self.contents[CERT])], root_certificates=self.contents.get(CLIENT_CA)
        )


class Certificates:
    """The server's certificate, its key, and the authority of client certificates if clients need one.

    With a client CA, no TLS session is resumed, so that each connection shows a certificate. Raises `ConfigError` if
    the files are unusable.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._files = load(cert, key, client_ca)
        self._requires_client = client_ca is not None
        self._used = self._files.last
        self._lock = threading.Lock()
        _log_use(self._used)

    @property
    def expiry(self) -> float:
        """When the certificate expires, as of the last handshake; see `Loaded.expiry`."""
        return self._used.expiry

    @property
    def doubt(self) -> str:
        """Why a client may reject the certificate; empty if nothing is wrong with it."""
        return self._used.doubt or ""

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for a port of grpc, which look for changed files at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._used.configuration(), self._fetch, require_client_authentication=self._requires_client
        )

    def _fetch(self) -> Any:
        # Called concurrently, in threads of grpc. None keeps the configuration.
        latest = self._files.latest()
        with self._lock:
            changed, self._used = latest is not self._used, latest
        if changed:
            _log_use(latest)
        # A resumed session checks neither expiry nor authority. Session tickets are valid for one configuration, and
        # grpc cannot switch them off, so each handshake gets a new one.
        return latest.configuration() if changed or CLIENT_CA in latest.contents else None


def load(cert: Path, key: Path, client_ca: Path | None) -> ReloadingFiles[Loaded]:
    """Read and validate the files of a listener. Raises `ConfigError` if they are unusable."""
    paths = {CERT: cert, KEY: key} | ({CLIENT_CA: client_ca} if client_ca else {})
    return ReloadingFiles(paths, partial(_load, paths))


def check_authorities(client_ca: Path) -> None:
    """Raise `ConfigError` if a file has no authority of client certificates."""
    ReloadingFiles({CLIENT_CA: client_ca}, lambda _: _client_that_trusts(client_ca, CLIENT_CA))


def _load(paths: Mapping[str, Path], contents: Mapping[str, bytes]) -> Loaded:
    expiry, doubt = _inspect(paths[CERT], paths[KEY])
    if CLIENT_CA in paths:
        _client_that_trusts(paths[CLIENT_CA], CLIENT_CA)
    return Loaded(contents, expiry, doubt)


def _log_use(loaded: Loaded) -> None:
    if loaded.doubt is None:
        end = datetime.fromtimestamp(loaded.expiry, UTC)
        _log.info("certificate.loaded", expires=end.isoformat().replace("+00:00", "Z"))
    else:
        _log.warning("certificate.doubtful", why=loaded.doubt)


def _inspect(cert: Path, key: Path) -> tuple[float, str | None]:
    """Return when a certificate expires, and why a client may reject it. Raises `InvalidFile` for an invalid pair."""
    client = _client_that_trusts(cert, CERT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        server.load_cert_chain(cert, key, password="")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            why = f"{key} does not belong to the certificate in {CERT}; replace both files together"
        else:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            why = f"{key} is not a usable private key ({reason}); name a PEM file without a password"
        raise InvalidFile(KEY, why) from error
    try:
        # The standard library shows a certificate's details only to the peer of a handshake.
        shown = _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        return _expires_regardless(server, client), error.verify_message
    except ssl.SSLError as error:
        raise InvalidFile(
            CERT, f"no TLS handshake succeeds with {cert} ({error.reason}); use another certificate"
        ) from error
    return _end_of(shown), None


def _end_of(shown: Mapping[str, Any]) -> float:
    return ssl.cert_time_to_seconds(shown["notAfter"])


def _expires_regardless(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Return when a certificate expires that is not valid now, or NaN if something else is wrong with it."""
    client.verify_flags |= NO_CHECK_TIME
    try:
        return _end_of(_handshake(server, client))
    except ssl.SSLError:
        return math.nan


def _client_that_trusts(path: Path, variable: str) -> ssl.SSLContext:
    """Return a TLS client that trusts each certificate in a file. Raises `InvalidFile` if there is none."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(path)
    except OSError as error:
        raise InvalidFile(variable, f"{path} has no usable certificate; name a PEM file with one") from error
    return client


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """Return the details of the certificate of `server`, as `client` sees them, without a socket."""
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
