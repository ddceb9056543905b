"""The authorities that the upstream's certificate is checked against, read once and off the event loop."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.auth.reloading import START_SECONDS, UnfitFileError, read_regular
from gateway.errors import ConfigError
from gateway.threads import run_detached

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
# The names under which OpenSSL looks for an authority in a folder.
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")

_log = structlog.get_logger()


def check() -> None:
    """Raise `ConfigError` if `SSL_CERT_FILE` cannot be used: libraries read it during their import, and may hang."""
    if FILE in os.environ:
        client_context()


def client_context() -> ssl.SSLContext:
    """Return the client's side of TLS that trusts `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the system's authorities.

    OpenSSL would open the files of a folder during handshakes, on the event loop, where a stuck volume stops
    everything. So they are read here, and not again. Raises `ConfigError` if they cannot be read, or not in time.
    """
    reading = run_detached("authorities", _load)
    try:
        return reading.result(START_SECONDS)
    except TimeoutError:
        named = ", ".join(f"{name}: {os.environ[name]}" for name in (FILE, FOLDER) if name in os.environ)
        raise ConfigError(
            f"{named or 'the system authorities'} cannot be read: no answer within {START_SECONDS:g} s; is the volume "
            "there?"
        ) from None


def _load() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    defaults = ssl.get_default_verify_paths()
    if named := os.environ.get(FILE):
        _trust_file(context, Path(named))
    elif defaults.cafile:
        context.load_verify_locations(defaults.cafile)
    # A default bundle holds what the default folder holds; a file that was named is an addition to the folder.
    folders = os.environ.get(FOLDER) or (defaults.capath if named or not defaults.cafile else "")
    certificates = {each for folder in (folders or "").split(os.pathsep) if folder for each in _in_folder(Path(folder))}
    for each in certificates:
        try:
            context.load_verify_locations(cadata=each)
        except ssl.SSLError as error:
            _log.warning("authority.unusable", variable=FOLDER, why=error.reason)
    return context


def _trust_file(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cadata=read_regular(path).decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{FILE}: {path} holds no certificate in PEM; name a file with authorities") from None
    except UnfitFileError as error:
        raise ConfigError(f"{FILE}: {path} {error}") from None
    except OSError as error:
        raise ConfigError(f"{FILE}: {path} cannot be read: {error.strerror}") from error


def _in_folder(folder: Path) -> Iterator[str]:
    try:
        names = sorted(each.name for each in folder.iterdir() if HASHED.fullmatch(each.name))
    except OSError as error:
        if FOLDER in os.environ:
            raise ConfigError(f"{FOLDER}: {folder} cannot be read: {error.strerror}") from error
        return
    for name in names:
        try:
            yield read_regular(folder / name).decode("ascii", "replace")
        except (OSError, UnfitFileError) as error:
            # One broken link among a hundred authorities is no reason not to start.
            _log.warning("authority.unusable", variable=FOLDER, why=f"{name}: {error}")
