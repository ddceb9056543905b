"""The simulator's ordinary answers, its refusals, and the check of credentials."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from aiohttp import web

from gateway.simulator.fault_responses import FaultResponse


class Refused(Exception):
    """A request gets no more than a refusal.

    Attributes:
        status: the HTTP status, 400 to 499.
        body: the answer's JSON.

    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"refused with {status}")
        self.status = status
        self.body = body


def refused(status: int, detail: str) -> Refused:
    """Return the refusal with the body `{"detail": detail}`."""
    return Refused(status, msgspec.json.encode({"detail": detail}))


def json_response(body: bytes, status: int = 200) -> web.Response:
    """Return an answer whose body is JSON."""
    return web.Response(status=status, body=body, content_type="application/json")


def response(answer: FaultResponse) -> web.Response:
    """Return the answer of a fault."""
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)


def bearer_token(request: web.Request, tokens: Collection[str]) -> str:
    """Return the token of a request, one of `tokens`.

    Raises:
        Refused: 401, there is no `Authorization: Bearer <token>`, more than one, or the token is unknown.

    """
    given = request.headers.getall("Authorization", [])
    if not given:
        raise refused(401, "Authentication credentials were not provided.")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or token not in tokens:
        raise refused(401, "Invalid token.")
    return token
