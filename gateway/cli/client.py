"""The client's side of a connection: the token, the channel, one call, one time limit."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
from jobgateway.v1 import job_service_pb2_grpc as pb_grpc

from gateway.cli.failure import CallFailed, Failure
from gateway.cli.files import MAX_CREDENTIAL_BYTES, read_bounded

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb

    Unary = Callable[..., pb.Job]

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A ping a minute finds a connection that died in silence, also while a call waits without any message.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Without it any ping may go unanswered for a minute, whatever the timeout above says.
    ("grpc.http2.ping_timeout_ms", 20_000),
    # A watch sends nothing for hours, and gRPC would stop pinging after two pings without data.
    ("grpc.http2.max_pings_without_data", 0),
    # Channels of one process share connections, so that a new one would come back to a gateway that drains.
    ("grpc.use_local_subchannel_pool", 1),
)


class TokenUnusable(Exception):
    """There is no token that a call could bear; the text says why, and never what the token is."""


def token_given(file: Path | None) -> bool:
    """Whether a file or the environment variable JOBGATEWAY_TOKEN gives a token."""
    return file is not None or bool(os.environ.get("JOBGATEWAY_TOKEN"))


def read_token(file: Path | None) -> str:
    """The token in a file, or else in the environment variable JOBGATEWAY_TOKEN.

    Raises `TokenUnusable` where there is none, or it cannot be sent.
    """
    environment = os.environ.get("JOBGATEWAY_TOKEN", "")
    if not token_given(file):
        raise TokenUnusable("no token: set JOBGATEWAY_TOKEN, or name a file that holds it with --token-file")
    try:
        token = read_bounded(file, MAX_CREDENTIAL_BYTES).decode("ascii").rstrip("\r\n") if file else environment
    except OSError as error:
        raise TokenUnusable(f"the token file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # The cause holds the bytes of the token, so it is not kept.
        raise TokenUnusable(f"the token file {file} holds something else than ASCII") from None
    source = f"the token file {file}" if file else "JOBGATEWAY_TOKEN"
    if not token:
        raise TokenUnusable(f"{source} is empty")
    if not all("!" <= character <= "~" for character in token):
        raise TokenUnusable(f"{source} holds a space or another character that no token can have")
    return token


class Deadline:
    """The time that a command may take, in seconds over all of its calls; None is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """The seconds that are left, or None where there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def _bearing(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


class Client:
    """A caller of one gateway, under one token or, if that is None, the gateway's own; over TLS with `tls`.

    `token_file` is where the token came from, if from a file.
    """

    def __init__(
        self,
        target: str,
        token: str | None,
        tls: grpc.ChannelCredentials | None = None,
        *,
        token_file: Path | None = None,
    ) -> None:
        self.target = target
        self.metadata = _bearing(token)
        self._tls = tls
        self._token_file = token_file
        self._connect()

    def renew_token(self) -> bool:
        """Read the token file again; return whether it holds another token now, which the calls to come will bear."""
        if self._token_file is None:
            return False
        try:
            renewed = _bearing(read_token(self._token_file))
        except TokenUnusable:
            return False
        before, self.metadata = self.metadata, renewed
        return renewed != before

    def _connect(self) -> None:
        if self._tls is None:
            self._channel = grpc.insecure_channel(self.target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(self.target, self._tls, options=CHANNEL_OPTIONS)
        self.stub = pb_grpc.JobServiceStub(self._channel)

    def reconnect(self) -> None:
        """Goes on over a new connection."""
        self._channel.close()
        self._connect()

    def call(self, method: "Unary", request: object, deadline: Deadline) -> "pb.Job":
        """The answer to a unary call. Raises `CallFailed` where that ends with an error."""
        try:
            return method(request, metadata=self.metadata, timeout=deadline.left())
        except grpc.RpcError as error:
            raise CallFailed(Failure.of(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
