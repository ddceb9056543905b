"""Ordinary responses, refusals, and the check of the token."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from aiohttp import web

from gateway.simulator.fault_responses import FaultResponse


class Refused(Exception):
    """The request is refused.

    Attributes:
        status: the HTTP status, 400 to 499.
        body: the JSON of the response.

    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"refused with {status}")
        self.status = status
        self.body = body


def refused(status: int, detail: str) -> Refused:
    """Return the refusal with the body `{"detail": detail}`."""
    return Refused(status, msgspec.json.encode({"detail": detail}))


def json_response(body: bytes, status: int = 200) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(status=status, body=body, content_type="application/json")


def response(fault: FaultResponse) -> web.Response:
    """Return the response of a fault."""
    return web.Response(status=fault.status, headers=fault.headers, body=fault.body or None)


def bearer_token(request: web.Request, tokens: Collection[str]) -> str:
    """Return the token of a request, one of `tokens`.

    Raises:
        Refused: with 401, if there is not exactly one `Authorization: Bearer <token>`, or its token is unknown.

    """
    given = request.headers.getall("Authorization", [])
    if not given:
        raise refused(401, "Authentication credentials were not provided.")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or token not in tokens:
        raise refused(401, "Invalid token.")
    return token
