"""The client's side of TLS: whom it trusts, and the certificate that it shows."""

import ssl
from pathlib import Path

import grpc

from gateway.cli.files import MAX_CREDENTIAL_BYTES, read_bounded
from gateway.cli.options import CallOptions


class TlsUnusable(Exception):
    """The options about TLS contradict each other, or name a file that is no use; the text says why."""


def channel_credentials(call: CallOptions) -> grpc.ChannelCredentials | None:
    """What a channel needs for TLS as the options have it, or None for plain text. Raises `TlsUnusable`."""
    if (call.cert_file is None) != (call.key_file is None):
        raise TlsUnusable("--cert-file and --key-file belong together: give both or neither")
    if not (call.tls or call.ca_file or call.cert_file):
        return None
    ca = _read("--ca-file", call.ca_file)
    cert = _read("--cert-file", call.cert_file)
    key = _read("--key-file", call.key_file)
    # grpc says what is wrong with one of these in its own log only, and the call that it cannot connect.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if call.ca_file:
            context.load_verify_locations(call.ca_file)
    except ssl.SSLError as error:
        raise TlsUnusable(f"--ca-file {call.ca_file} holds no certificate in PEM that can be read") from error
    try:
        if call.cert_file:
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(call.cert_file, call.key_file, password="")
    except ssl.SSLError as error:
        pair = f"--cert-file {call.cert_file} and --key-file {call.key_file}"
        raise TlsUnusable(f"{pair} are no certificate and its key, in PEM without a password") from error
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def _read(option: str, file: Path | None) -> bytes | None:
    try:
        return read_bounded(file, MAX_CREDENTIAL_BYTES) if file else None
    except OSError as error:
        raise TlsUnusable(f"{option} {file} cannot be read: {error.strerror}") from error
