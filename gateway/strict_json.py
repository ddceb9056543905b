"""A check for strict JSON (RFC 8259): every reader takes the same value from it."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

MAX_DEPTH = 500

_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"

# Possessive, because each backtracking step would take memory: half a gigabyte for 8 MiB of escapes.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[{])|([\]}])')


def check_json(raw: bytes) -> None:
    """Check that `raw` is one JSON value in UTF-8.

    Repeated keys are rejected, because two readers may take different values from them.

    Raises:
        ValueError: It is not, it repeats a key, or it is nested more than 500 levels deep. The message is for the
            client.
    """
    if not raw.strip():
        raise ValueError("it is empty; leave it unset, or send a JSON value")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    try:
        json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_keep, parse_float=_keep)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if _depth(text) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)


def _depth(text: str) -> int:
    # Only for valid JSON: an unfinished string would make this quadratic.
    depth = deepest = 0
    for match in _BRACKETS.finditer(text):
        if match[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif match[2]:
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> None:
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"an object has the key {counts.most_common(1)[0][0]!r} twice")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _keep(text: str) -> str:
    # The value is not needed, and int() rejects numbers with thousands of digits.
    return text
