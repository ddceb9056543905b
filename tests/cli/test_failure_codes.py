"""The exit codes of failed calls."""

import grpc
import pytest
from jobgateway_client import GatewayError

from gateway.cli.failures.failure_codes import BY_REASON, failure_code
from gateway.rpc import status

Code = grpc.StatusCode


def test_every_reason_of_the_gateway_has_an_exit_code() -> None:
    mappings = [*status.BY_ERROR.values(), *status.BY_HTTP_STATUS.values(), status.OTHER_4XX, status.OTHER_5XX]
    assert set(BY_REASON) == {each.reason for each in mappings}


@pytest.mark.parametrize(
    ("error", "sending", "code"),
    [
        (GatewayError(Code.DEADLINE_EXCEEDED, "late"), False, 124),
        (GatewayError(Code.DEADLINE_EXCEEDED, "late", reason="UPSTREAM_TIMEOUT"), False, 8),
        (GatewayError(Code.DEADLINE_EXCEEDED, "late"), True, 9),
        (GatewayError(Code.UNAVAILABLE, "failed to connect to all addresses"), True, 8),
        (GatewayError(Code.UNAVAILABLE, "later", reason="DRAINING"), True, 8),
        (GatewayError(Code.NOT_FOUND, "none", reason="REASON_OF_A_LATER_GATEWAY"), False, 7),
        (GatewayError(Code.UNIMPLEMENTED, "other server"), False, 3),
        (GatewayError(Code.OK, "the stream ended before the job"), False, 8),
    ],
)
def test_a_failed_call_has_a_code(error: GatewayError, sending: bool, code: int) -> None:
    assert failure_code(error, sending=sending) == code
