"""Readers of a call's metadata."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


PASSED_THROUGH = ("traceparent", "x-request-id")

# The values of the first attempt: of gRPC's own retries, and of those by Envoy and Istio.
FIRST_ATTEMPTS = {"grpc-previous-rpc-attempts": 0, "x-envoy-attempt-count": 1}
_COUNT = re.compile(r"[0-9]+")

# An HTTP/2 client can send CR, LF and NUL in a value, and grpc.aio passes them on.
_SAFE_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


def metadata_dict(context: ServicerContext[Any, Any]) -> dict[str, list[str | bytes]]:
    """Return a call's metadata, all values of each name."""
    metadata: dict[str, list[str | bytes]] = {}
    for name, value in context.invocation_metadata() or ():
        metadata.setdefault(name, []).append(value)
    return metadata


def read_passed_through(metadata: dict[str, list[str | bytes]]) -> dict[str, str]:
    """Return the first valid value of each header that passes through.

    Proxies add these headers, and some add a second one (HAProxy's unique-id-header). An invalid value is ignored and
    does not fail the call, because these headers are no credentials.
    """
    found = {}
    for name in PASSED_THROUGH:
        for value in metadata.get(name, ()):
            if isinstance(value, str) and _SAFE_VALUE.fullmatch(value):
                found[name] = value
                break
    return found


def read_user_agent(metadata: dict[str, list[str | bytes]]) -> str:
    """Return the name that the client's library and program give themselves, as it was sent; "" if none."""
    values = metadata.get("user-agent")
    return values[0] if values and isinstance(values[0], str) else ""


def read_automatic_retry(metadata: dict[str, list[str | bytes]]) -> str | None:
    """Return the header, with its value, that marks a call as an automatic retry by a library or proxy, or None."""
    for name, first in FIRST_ATTEMPTS.items():
        for value in metadata.get(name, ()):
            # A proxy may have joined several values.
            for count in value.split(",") if isinstance(value, str) else ():
                if _is_above(count.strip(), first):
                    return f"{name}: {count.strip()[:20]}"
    return None


def _is_above(count: str, first: int) -> bool:
    digits = count.lstrip("0")
    # int() rejects thousands of digits.
    return bool(_COUNT.fullmatch(count)) and (len(digits) > 9 or int(digits or "0") > first)
