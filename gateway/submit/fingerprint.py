"""The fingerprint by which two requests under one request id are compared."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from gateway.strict_json import DIGITS_OF_A_DOUBLE, has_few_digits

if TYPE_CHECKING:
    from gateway.models import SendJob

# Converting an integer of more digits takes long, and seven bytes may be one of thousands of digits.
MAX_CANONICAL_INTEGER_DIGITS = 60
LONG_INTEGER = b"0" * (MAX_CANONICAL_INTEGER_DIGITS + 1)
DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
# Fractions of up to 15 digits with exponents up to this are equal if their doubles are equal.
MAX_SCALE = 250
# Numbers with longer exponents are compared as they are written.
MAX_EXPONENT_DIGITS = 18


def fingerprint_of(job: SendJob) -> bytes:
    """Return 32 bytes that are equal if workspace, entity and upstream body are equal, compared as JSON values.

    `poll_result` does not count, because it changes the time of the response and not the job. 8 MiB of JSON take a
    second or two.

    Args:
        job: Its `params` and `arguments` have passed `check_json`.
    """
    parts = [
        job.workspace_id,
        job.entity_id,
        job.method_name,
        job.method_type,
        # Letters of a UUID may have either case.
        None if job.editor_session is None else job.editor_session.lower(),
        None if job.params is None else _canonical(job.params),
        list(job.events),
        job.timeout,
        None if job.arguments is None else _canonical(job.arguments),
        job.method,
    ]
    return blake2b(json.dumps(parts).encode(), digest_size=32).digest()


def _canonical(raw: bytes) -> str:
    decoder = _DECODER_OF_LONG_INTEGERS if LONG_INTEGER in raw.translate(DIGITS_AS_ZEROS) else _DECODER
    return _ENCODER.encode(decoder.decode(raw.decode()))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A prefix, so that the empty name is left to numbers.
    return {f"={name}": value for name, value in pairs}


def _tagged(number: bytes) -> dict[str, str]:
    return {"": number.decode()}


def _number(text: str) -> int | float | bytes:
    """Return a number by its value: an integer, a fraction that has a double of its own, or digits and exponent."""
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


# Without a function of ours, integers are read five times as fast.
_DECODER = json.JSONDecoder(parse_float=_number, object_pairs_hook=_members)
_DECODER_OF_LONG_INTEGERS = json.JSONDecoder(parse_float=_number, parse_int=_number, object_pairs_hook=_members)
_ENCODER = json.JSONEncoder(sort_keys=True, default=_tagged)
