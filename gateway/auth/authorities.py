"""The authorities that verify the upstream's certificate, read once and outside the event loop."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.auth.reloading import START_SECONDS, UnfitFileError, describe, hangs, problem_of, read_regular
from gateway.errors import ConfigError
from gateway.threads import run_detached

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
# OpenSSL reads only files with such names in a folder.
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")

_log = structlog.get_logger()


def check() -> None:
    """Raise `ConfigError` if `SSL_CERT_FILE` is set and unusable.

    Libraries read this file during their import, which would hang on a stuck volume.
    """
    if FILE in os.environ:
        client_context()


def client_context() -> ssl.SSLContext:
    """Return a TLS client that trusts `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the system's authorities.

    All files are read here, once, because OpenSSL would read a folder during handshakes, on the event loop, which a
    stuck volume then blocks.

    Raises:
        ConfigError: a file or folder is unusable, or cannot be read within `START_SECONDS`.
    """
    reading = run_detached("authorities", _load)
    try:
        return reading.result(START_SECONDS)
    except TimeoutError:
        paths = {name: Path(os.environ[name]) for name in (FILE, FOLDER) if name in os.environ}
        subject = describe(paths) if paths else "the system's authorities"
        raise ConfigError(hangs(subject, START_SECONDS)) from None


def _load() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    defaults = ssl.get_default_verify_paths()
    if named := os.environ.get(FILE):
        _trust_file(context, Path(named))
    elif defaults.cafile:
        context.load_verify_locations(defaults.cafile)
    # The default bundle has the same content as the default folder. SSL_CERT_FILE is an addition to the folder.
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
        raise ConfigError(f"{FILE}: {path} has no usable certificate; name a PEM file with authorities") from None
    except (OSError, UnfitFileError) as error:
        raise ConfigError(f"{FILE}: {path} {problem_of(error)}") from error


def _in_folder(folder: Path) -> Iterator[str]:
    try:
        names = sorted(each.name for each in folder.iterdir() if HASHED.fullmatch(each.name))
    except OSError as error:
        if FOLDER in os.environ:
            raise ConfigError(f"{FOLDER}: {folder} {problem_of(error)}") from error
        return
    for name in names:
        try:
            yield read_regular(folder / name).decode("ascii", "replace")
        except (OSError, UnfitFileError) as error:
            # One broken link among a hundred authorities should not prevent the start.
            _log.warning("authority.unusable", variable=FOLDER, why=f"{name} {problem_of(error)}")
