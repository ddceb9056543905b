"""Durations and numbers as people read them."""

from __future__ import annotations

MINUTE, HOUR, DAY = 60, 3_600, 86_400
KIB = 1 << 10
UNITS = ("B", "KiB", "MiB", "GiB")


def duration(seconds: float) -> str:
    """Return a duration in one or two units, such as `2 h 5 min`, `3.2 s` or `45 ms`.

    Raises:
        ValueError: The duration is negative.
    """
    if seconds < 0:
        raise ValueError(f"a duration cannot be negative (got {seconds} s)")
    if (milliseconds := round(seconds * 1_000)) < 1_000:
        return f"{milliseconds} ms"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return _two(whole, MINUTE, "min", 1, "s")
    if whole < DAY:
        return _two(whole, HOUR, "h", MINUTE, "min")
    return _two(whole, DAY, "d", HOUR, "h")


def age(seconds: float) -> str:
    """Return a duration in whole seconds or longer units."""
    return duration(round(seconds)) if seconds >= 1 else f"{seconds:.0f} s"


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    first, rest = divmod(seconds, large)
    second = rest // small
    return f"{first} {large_name} {second} {small_name}" if second else f"{first} {large_name}"


def size(number: int) -> str:
    """Return a number of bytes, such as `1.5 MiB`."""
    value, power = float(number), 0
    # Rounded as it is shown: 1 MiB instead of 1024 KiB.
    while round(value, 1) >= KIB and power < len(UNITS) - 1:
        value, power = value / KIB, power + 1
    return f"{value:.1f} {UNITS[power]}".replace(".0 ", " ")


def count(number: int, one: str, many: str) -> str:
    """Return a number with its noun, such as `1 job` or `5,000 jobs`."""
    return f"{number:,} {one if number == 1 else many}"
