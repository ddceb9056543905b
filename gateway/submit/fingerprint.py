"""What makes two requests the same under one request_id."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.domain import SendJob

# int() refuses thousands of digits; numbers with longer exponents are compared as they are written.
MAX_EXPONENT_DIGITS = 18


def fingerprint(job: SendJob) -> bytes:
    """32 bytes that are equal where workspace, entity and upstream body are, as JSON values and numbers by value.

    `poll_result` does not count: it changes how long the answer takes, and not the job. `params` and `arguments` are
    JSON that passed `check_json`; 8 MiB of short numbers, the worst of it, take some seconds.
    """
    parts = [
        job.workspace_id,
        job.entity_id,
        job.method_name,
        job.method_type,
        # A UUID is the same in either case.
        None if job.editor_session is None else job.editor_session.lower(),
        None if job.params is None else _canonical(job.params),
        list(job.events),
        job.timeout,
        None if job.arguments is None else _canonical(job.arguments),
        job.method,
    ]
    return blake2b(json.dumps(parts).encode(), digest_size=32).digest()


def _canonical(raw: bytes) -> str:
    value = json.loads(raw, parse_float=_number, parse_int=_number, object_pairs_hook=_members)
    return json.dumps(value, sort_keys=True, default=_tagged)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # No name stays empty, so that a number can be told from every other value.
    return {f"={name}": value for name, value in pairs}


def _tagged(number: bytes) -> dict[str, str]:
    return {"": number.decode()}


def _number(text: str) -> bytes:
    """A number by its value, as the bytes that no other JSON value becomes: 100, 1e2 and 1.00E+2 are `1e2`."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return b"0"
    if len(exponent) > MAX_EXPONENT_DIGITS:
        return text.encode()
    scale = int(exponent or "0") - len(fraction) + len(digits) - len(significant)
    return f"{'-' if text[0] == '-' else ''}{significant}e{scale}".encode()
