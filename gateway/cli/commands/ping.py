"""`ping`: the health of a gateway, its round-trip time, and the credential if there is one."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import shared as opt

if TYPE_CHECKING:
    from gateway.cli.client.session import Session

_MISSING = "CREDENTIAL_INVALID"


def ping(call: opt.QuickCallOptions, shown: opt.ReportOptions) -> None:
    """Check that a gateway serves, and how long a call takes. If there is a credential, check it, too.

    It needs no credential. Use `doctor` to find the cause if it fails.
    """
    # Imported here, so that help does not wait for gRPC.
    from gateway.cli.client.session import session
    from gateway.cli.output import json_output
    from gateway.cli.output.formatting import clean

    output = opt.Output(shown.output)
    with session(call, output, needs_token=False) as current:
        connect, round_trip = _timed_checks(current, call)
        accepted = _is_credential_accepted(current, call)
        if output is opt.Output.JSON:
            json_output.show_object(
                {
                    "target": call.target,
                    "connect_seconds": round(connect, 6),
                    "round_trip_seconds": round(round_trip, 6),
                    "credential": "accepted" if accepted else None,
                }
            )
            return
        credential = "credential accepted" if accepted else "no credential given"
        times = f"round trip {round_trip * 1000:.1f} ms, connected in {connect * 1000:.1f} ms"
        typer.echo(f"{clean(call.target)} serves; {times}; {credential}")


def _timed_checks(current: "Session", call: opt.CallOptions) -> tuple[float, float]:
    """Check the health twice, and return the seconds of the first check, which connects, and of the second.

    Raises:
        GatewayError: There is no gateway, or it accepts no calls.

    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from jobgateway_client import GatewayError
    from jobgateway_client.errors import from_rpc_error

    from gateway.cli.client.credentials import tls
    from gateway.cli.doctor.service import SERVICE

    secured = tls(call)
    channel = grpc.secure_channel(call.target, secured.credentials()) if secured else grpc.insecure_channel(call.target)
    with channel:
        # Its type stubs do not have the methods.
        stub: Any = health_pb2_grpc.HealthStub(channel)

        def check() -> None:
            try:
                response = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=current.deadline.left())
            except grpc.RpcError as error:
                failed = from_rpc_error(error)
                if failed.code is not grpc.StatusCode.NOT_FOUND:
                    raise failed from error
                # Another gRPC server with a health service.
                raise GatewayError(grpc.StatusCode.UNIMPLEMENTED, f"{call.target} has no {SERVICE}") from error
            if response.status != health_pb2.HealthCheckResponse.SERVING:
                message = f"{call.target} is shutting down and accepts no calls"
                raise GatewayError(grpc.StatusCode.UNAVAILABLE, message, reason="DRAINING")

        return _seconds(check), _seconds(check)


def _is_credential_accepted(current: "Session", call: opt.CallOptions) -> bool:
    """Return True if the upstream accepts the credential, or False if there is none.

    Raises:
        GatewayError: It was rejected, or the upstream did not say.

    """
    from jobgateway_client import GatewayError

    from gateway.cli.client.credentials import token_given
    from gateway.cli.doctor.calls import ABSENT_UID, ACCEPTED

    has_token = token_given(call)
    if call.cert_file is None and not has_token:
        return False
    try:
        current.client.get(ABSENT_UID, timeout=current.deadline.left())
    except GatewayError as error:
        if error.reason == _MISSING and not has_token:
            # The certificate is only for TLS.
            return False
        if error.reason not in ACCEPTED:
            # Nobody asked for this job.
            error.metadata.pop("uid", None)
            raise
    return True


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
