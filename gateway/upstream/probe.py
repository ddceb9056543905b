"""One request at the start, which tells in the log whether something like the API responds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.errors import UpstreamError, UpstreamMalformed, UpstreamStatusError
from gateway.upstream.causes import CHECK_ADDRESS

if TYPE_CHECKING:
    from gateway.upstream.client import RestClient

# Responses of the API to a request without a credential; 429 if it limits such requests.
ASKS_FOR_CREDENTIAL = frozenset({401, 403, 429})

_log = structlog.get_logger()


class Finding(NamedTuple):
    """The result of a probe.

    Attributes:
        result: `api`, `not_api`, `failing` or `unreachable`.
        cause: The cause in short.
        message: The cause, with what to check.
    """

    result: str
    cause: str
    message: str


async def probe(rest: RestClient) -> None:
    """Ask the upstream without a credential, and log the result as `upstream.probed`."""
    finding = await _find(rest)
    write = _log.info if finding.result == "api" else _log.warning
    write("upstream.probed", **finding._asdict())


async def _find(rest: RestClient) -> Finding:
    try:
        status = await rest.get_without_credential()
    except UpstreamStatusError as error:
        return _refusal(error)
    except UpstreamError as error:
        result = "not_api" if isinstance(error, UpstreamMalformed) else "unreachable"
        return Finding(result, error.cause, str(error))
    return _not_api(f"HTTP {status}")


def _refusal(error: UpstreamStatusError) -> Finding:
    status = error.http_status
    if status >= 500:
        return Finding("failing", error.cause, f"the upstream responds with {error.cause}")
    if error.from_api and status in ASKS_FOR_CREDENTIAL:
        return Finding("api", error.cause, "the upstream responds like the API")
    return _not_api(error.cause)


def _not_api(cause: str) -> Finding:
    expected = "a request without a credential should get HTTP 401 with a JSON object"
    return Finding("not_api", cause, f"the upstream responds with {cause}, but {expected}; {CHECK_ADDRESS}")
