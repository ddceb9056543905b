"""The checks with the Python client: the upstream, the credential, and a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, GatewayError

from gateway.cli.display.job_lines import job_line
from gateway.cli.doctor.findings import Finding, Outcome, ok, skipped
from gateway.cli.output.formatting import clean

if TYPE_CHECKING:
    from pathlib import Path

    from jobgateway_client import Tls

CALL_SECONDS = 30.0
# The largest 32-bit number, which no upstream has reached. Larger ones may be errors in its database.
ABSENT_UID = 2**31 - 1

ACCEPTED = ("UPSTREAM_NOT_FOUND", "UPSTREAM_PERMISSION_DENIED")
"""The reasons with which the upstream shows that it knows the token."""

_REJECTED = ("UPSTREAM_UNAUTHENTICATED", "CREDENTIAL_INVALID")
# The gateway's words if no credential arrived.
_MISSING = "send the metadata 'authorization"
# gRPC's words for a response that is not gRPC.
_PROXY_SAID = "http2 header with status"
_BUSY = ("LIMIT_REACHED", "UPSTREAM_RATE_LIMITED", "GATEWAY_OVERLOADED", "DRAINING")


class Calls:
    """Calls to the gateway with the token, or without one.

    `accepted` is True after a check that found the credential accepted.
    """

    def __init__(self, target: str, tls: Tls | None, token: str | None, token_file: Path | None) -> None:
        self.accepted = False
        self._target = target
        self._tls = tls
        self._token = token
        self._token_file = token_file

    async def check_credential(self) -> list[Finding]:
        """Check the upstream and the credential: read a job that does not exist."""
        error = await self._read(ABSENT_UID)
        if not isinstance(error, GatewayError):
            self.accepted = True
            return [ok("upstream", "it responds"), ok("credential", "accepted")]
        self.accepted = error.reason in ACCEPTED
        said = _said(error)
        if self.accepted:
            own = "" if self._token else ", without a token: the gateway has its own"
            known = f"accepted{own}; whether it may use a workspace, only a job shows"
            return [ok("upstream", "the gateway reaches it"), ok("credential", known)]
        if error.reason == "CREDENTIAL_INVALID" and self._token is None:
            missing = "no token was given, and the gateway requires one: set JOBGATEWAY_TOKEN or --token-file"
            return [skipped("upstream", "needs a token"), skipped("credential", missing)]
        if error.reason == "CREDENTIAL_INVALID" and error.message.startswith(_MISSING):
            text = "the token did not arrive at the gateway; something in between removes the metadata 'authorization'"
            fix = "let the proxy pass authorization on: remove lines such as these"
            removing = (
                'grpc_set_header Authorization "";  # nginx',
                "request_headers_to_remove: [authorization]  # Envoy",
            )
            return [skipped("upstream", "not asked"), Finding("credential", Outcome.FAIL, text, fix, removing)]
        if error.reason in _REJECTED:
            by = "upstream" if error.reason.startswith("UPSTREAM") else "gateway"
            rejected = Finding("credential", Outcome.FAIL, f"the {by} rejected the token: {said}", *self._renewal())
            reached = ok("upstream", "the gateway reaches it") if by == "upstream" else skipped("upstream", "not asked")
            return [reached, rejected]
        unknown = skipped("credential", "the upstream did not look at it")
        if _PROXY_SAID in error.message:
            text = f"something in between rejects the call GetJob: {said}"
            fix = "let the proxy pass all paths of the gateway; 429 and 503 mean a rate limit or too much load"
            return [Finding("upstream", Outcome.FAIL, text, fix), unknown]
        if not error.from_gateway:
            text = f"the Python client fails, although the connection works: {said}"
            return [
                Finding(
                    "upstream", Outcome.FAIL, text, "look for variables such as https_proxy", ("env | grep -i proxy",)
                ),
                unknown,
            ]
        if error.reason in _BUSY:
            return [Finding("upstream", Outcome.WARN, f"not asked: {said}", "run this again", ()), unknown]
        fix = "check JOBGATEWAY_UPSTREAM_URL of the gateway, and its way there; on its machine"
        paste = ('curl -sS -o /dev/null -w "%{http_code}\\n" "$JOBGATEWAY_UPSTREAM_URL/"',)
        return [Finding("upstream", Outcome.FAIL, f"the gateway cannot use it: {said}", fix, paste), unknown]

    async def check_job(self, uid: int) -> Finding:
        """Read a job."""
        outcome = await self._read(uid)
        if isinstance(outcome, GatewayError):
            fix = "check the number, and the access of the token" if outcome.code is grpc.StatusCode.NOT_FOUND else ""
            return Finding("job", Outcome.FAIL, f"job {uid} cannot be read: {_said(outcome)}", fix)
        return ok("job", job_line(outcome)[:200])

    async def _read(self, uid: int) -> pb.Job | GatewayError:
        request = pb.GetJobRequest(uid=uid, content_format=pb.CONTENT_FORMAT_NONE)
        async with AsyncClient(self._target, token=self._token, tls=self._tls, attempts=1) as client:
            try:
                return await client.get(request, timeout=CALL_SECONDS)
            except GatewayError as error:
                return error

    def _renewal(self) -> tuple[str, tuple[str, ...]]:
        """Return how to give another token: the fix, and the lines to copy."""
        fix = "get a new token of this environment"
        if self._token_file:
            return f"{fix}, and write it to {self._token_file}", ()
        return f"{fix}, and set it", ("export JOBGATEWAY_TOKEN='the token'",)


def _said(error: GatewayError) -> str:
    return clean(f"{error.message.rstrip('.')} [{error.reason or error.code.name}]")[:300]
