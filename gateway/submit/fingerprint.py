"""What makes two requests the same under one request_id."""

from __future__ import annotations

import json
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.domain import SendJob


def fingerprint(job: SendJob) -> bytes:
    """32 bytes that are equal where workspace, entity and upstream body are, as JSON values and numbers by value.

    `poll_result` does not count: it changes how long the answer takes, and not the job.
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
    value = json.loads(raw, parse_float=_number, parse_int=_number)
    return json.dumps(value, sort_keys=True)


def _number(text: str) -> Any:
    # As a string in a list of its own, so that the number 1 and the text "1" stay two values.
    sign, digits, exponent = Decimal(text).as_tuple()
    significant = "".join(map(str, digits)).strip("0")
    if not significant:
        return ["0"]
    trailing = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return [f"{'-' if sign else ''}{significant}e{int(exponent) + trailing}"]
