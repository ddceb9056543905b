"""Suggest the name or value that was meant by a wrong one."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The part of two words that must agree. With less, the suggestion is a guess.
LIKENESS = 0.7
UNITS = {
    **dict.fromkeys(("ms", "msec", "millis"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
FACTORS = {"": 1.0, "k": 1000.0}

_NUMBER = re.compile(r"\s*(\d{1,9}|\d{1,3}(?:,\d{3}){1,2})(\.\d{1,9})?\s*([A-Za-z]{0,8})\s*", re.ASCII)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like a word, regardless of case, or None if none is."""
    by_lower = {each.lower(): each for each in choices}
    if word.lower() in by_lower:
        return by_lower[word.lower()]
    # A name without its beginning, such as TOKEN_FILE for UPSTREAM_TOKEN_FILE.
    longer = [each for each in by_lower if each.endswith(f"_{word.lower()}")]
    if len(longer) == 1:
        return by_lower[longer[0]]
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=LIKENESS)
    return by_lower[found[0]] if found else None


def plain_number(text: str, *, seconds: bool) -> float | None:
    """Return the number in a text with a unit or commas, such as `30s` or `20k`, or None."""
    match = _NUMBER.fullmatch(text)
    factor = (UNITS if seconds else FACTORS).get(match[3].lower(), 1.0 if not match[3] else None) if match else None
    if match is None or factor is None:
        return None
    # Rounded, because 1.1 minutes would otherwise have many digits.
    return round(float(match[1].replace(",", "") + (match[2] or "")) * factor, 6)


def beginning(url: str, schemes: tuple[str, ...], default: str | None = None) -> str | None:
    """Return how a URL should begin, or None if that is not clear or its beginning is right.

    `default` is the scheme of a URL without one. No part of `url` is repeated, because it may hold a password.
    """
    head, colon, rest = url.partition(":")
    if colon and rest.startswith("/"):
        meant = nearest(head, schemes)
        is_right = head.lower() == meant and re.match(r"//[^/]", rest) is not None
    else:
        meant, is_right = default, not url
    return None if meant is None or is_right else f"{meant}://"
