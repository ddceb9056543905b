"""What makes two requests the same under one request_id."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from gateway.strict_json import DIGITS_OF_A_DOUBLE, has_few_digits

if TYPE_CHECKING:
    from gateway.models import SendJob

# Of more digits, to convert an integer takes long: seven bytes may be an integer of thousands of digits.
MAX_CANONICAL_INTEGER_DIGITS = 60
LONG_INTEGER = b"0" * (MAX_CANONICAL_INTEGER_DIGITS + 1)
DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
# Fractions of up to 15 digits and such an exponent are equal if their doubles are equal.
MAX_SCALE = 250
# Numbers with longer exponents are compared as they are written.
MAX_EXPONENT_DIGITS = 18


def fingerprint_of(job: SendJob) -> bytes:
    """32 bytes that are equal where workspace, entity and upstream body are, as JSON values and numbers by value.

    `poll_result` does not count: it changes how long the answer takes, and not the job. `params` and `arguments` are
    JSON that passed `check_json`; 8 MiB of it take a second or two.
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
    # Integers are read five times as fast without a function of ours.
    parse_int = _number if LONG_INTEGER in raw.translate(DIGITS_AS_ZEROS) else None
    value = json.loads(raw, parse_float=_number, parse_int=parse_int, object_pairs_hook=_members)
    return json.dumps(value, sort_keys=True, default=_tagged)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # No name stays empty, so that a number can be told from every other value.
    return {f"={name}": value for name, value in pairs}


def _tagged(number: bytes) -> dict[str, str]:
    return {"": number.decode()}


def _number(text: str) -> int | float | bytes:
    """A number by its value: an integer, a fraction that a double tells from all others, or digits and exponent."""
    if has_few_digits(text):
        number = float(text)
        return int(number) if number.is_integer() else number
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0
    power = exponent.lstrip("+-").lstrip("0") or "0"
    if len(power) > MAX_EXPONENT_DIGITS:
        return text.encode()
    scale = int(f"-{power}" if exponent[:1] == "-" else power) - len(fraction) + len(digits) - len(significant)
    sign = "-" if text[0] == "-" else ""
    if 0 <= scale <= MAX_CANONICAL_INTEGER_DIGITS - len(significant):
        return int(sign + significant + "0" * scale)
    if scale < 0 and len(significant) <= DIGITS_OF_A_DOUBLE and scale > -MAX_SCALE:
        return float(f"{sign}{significant}e{scale}")
    return f"{sign}{significant}e{scale}".encode()
