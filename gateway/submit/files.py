"""Files that the URL of a store names."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHORITIES, CERTIFICATE, KEY = "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"


def check_tls_files(variable: str, files: Mapping[str, str]) -> None:
    """Make sure that TLS can use the files of the options `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`.

    Raises:
        ConfigError: It cannot.
    """
    for option, path in files.items():
        _check_file(variable, option, path)
    if KEY in files and CERTIFICATE not in files:
        raise ConfigError(f"{variable}: {KEY} needs {CERTIFICATE}; add it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if AUTHORITIES in files:
        try:
            context.load_verify_locations(files[AUTHORITIES])
        except ssl.SSLError:
            raise ConfigError(
                f"{variable}: {AUTHORITIES}={files[AUTHORITIES]} has no certificate in PEM form"
            ) from None
    if CERTIFICATE in files:
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files[CERTIFICATE], files.get(KEY), password=b"")
        except ssl.SSLError:
            raise ConfigError(
                f"{variable}: {CERTIFICATE}={files[CERTIFICATE]} has no certificate in PEM form with its key; name the "
                f"file of the key with {KEY} if it is another one. The key must have no password"
            ) from None


def _check_file(variable: str, option: str, path: str) -> None:
    """Make sure that a file can be opened.

    Raises:
        ConfigError: It cannot.
    """
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"{variable}: {option}={path} cannot be read: {error.strerror}") from None
