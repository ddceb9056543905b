"""The words for on and off in the variable of a switch. This module has no imports, so that the start can use it."""

_ON = frozenset({"true", "t", "yes", "y", "on", "1"})
_OFF = frozenset({"false", "f", "no", "n", "off", "0"})


def is_on(word: str) -> bool:
    """Return whether a word means on. Raises `ValueError` if it means neither."""
    lower = word.strip().lower()
    if lower in _ON | _OFF:
        return lower in _ON
    raise ValueError(f"{word} must be true or false")
