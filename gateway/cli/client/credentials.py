"""The credentials of a client command: the token, and TLS."""

import os
from pathlib import Path

from jobgateway_client import Tls, TlsFileError

from gateway.cli.options.contexts import Strength
from gateway.cli.options.files import MAX_TOKEN_BYTES, exists, read_bounded
from gateway.cli.options.shared import ConnectionOptions
from gateway.cli.options.variables import TOKEN, of_shared


class TokenUnusable(Exception):
    """There is no token that a call can carry. The text says why, and never contains the token."""


class TlsUnusable(Exception):
    """The TLS options contradict each other, or name a file that cannot be used."""


def token_given(call: ConnectionOptions) -> bool:
    """Return True if a file or the environment variable JOBGATEWAY_TOKEN gives a token."""
    return call.token_file is not None or bool(call.takes_token and os.environ.get(TOKEN))


def given_token(call: ConnectionOptions) -> str:
    """Return the token that the options give.

    Raises:
        TokenUnusable: There is none, or it cannot be sent.

    """
    if call.token_file is None and not call.takes_token:
        raise TokenUnusable(f"the context {call.chosen} has no token; name a file that holds it with --token-file")
    return read_token(call.token_file, _token_option(call))


def _token_option(call: ConnectionOptions) -> str:
    source = call.sources.get("token_file")
    if source is Strength.CONTEXT:
        return f"token_file of the context {call.chosen}"
    return of_shared("token_file") if source is Strength.VARIABLE else "--token-file"


def read_token(file: Path | None, option: str = "--token-file") -> str:
    """Return the token in a file, or in the environment variable JOBGATEWAY_TOKEN.

    Args:
        file: The file, or None for the variable.
        option: The name of the option that gave it.

    Raises:
        TokenUnusable: There is none, or it cannot be sent.

    """
    environment = os.environ.get(TOKEN, "")
    if not (file or environment):
        raise TokenUnusable(f"no token: set {TOKEN}, or name a file that holds it with --token-file")
    if file and not exists(file):
        # The value may be the token itself, so it is not repeated.
        raise TokenUnusable(f"{option}: there is no such file; give the path of a file that exists")
    try:
        token = read_bounded(file, MAX_TOKEN_BYTES).decode("ascii").rstrip("\r\n") if file else environment
    except OSError as error:
        raise TokenUnusable(f"the token file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # The cause contains the bytes of the token, so it is not kept.
        raise TokenUnusable(f"the token file {file} has bytes that are not ASCII; write only the token to it") from None
    source = f"the token file {file}" if file else TOKEN
    if not token:
        raise TokenUnusable(f"{source} is empty; put a token into it")
    if not all("!" <= character <= "~" for character in token):
        raise TokenUnusable(f"{source} has a space or another character that no token has; put only the token into it")
    return token


class TokenFile:
    """The token of a file, which may be replaced while a command runs."""

    def __init__(self, file: Path, token: str) -> None:
        self._file = file
        self._next: str | None = token
        self._last = token

    def __call__(self) -> str | None:
        """Return the token; later, return the file's new token, or None if it has no other one."""
        if self._next is not None:
            token, self._next = self._next, None
            return token
        try:
            token = read_token(self._file)
        except TokenUnusable:
            return None
        before, self._last = self._last, token
        return token if token != before else None


def token_source(call: ConnectionOptions) -> str | TokenFile | None:
    """Return the source of the token, or None if the client's certificate is enough.

    Raises:
        TokenUnusable: There is no token, or it cannot be sent.

    """
    if call.cert_file is not None and not token_given(call):
        return None
    token = given_token(call)
    return TokenFile(call.token_file, token) if call.token_file else token


def tls(call: ConnectionOptions) -> Tls | None:
    """Return TLS as the options describe it, or None for plaintext.

    Raises:
        TlsUnusable: The options contradict each other, or name a file that cannot be used.

    """
    files = {"ca_file": call.ca_file, "cert_file": call.cert_file, "key_file": call.key_file}
    if not call.tls and not any(files.values()):
        return None
    try:
        return Tls.from_files(**files)
    except TlsFileError as error:
        named = [f"--{name.replace('_', '-')} {files[name] or ''}".rstrip() for name in error.names]
        raise TlsUnusable(f"{' and '.join(named)}: {error.problem}") from error
