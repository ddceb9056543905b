"""Texts that are safe on a terminal. This module has no slow imports."""

import json

# Characters that move the cursor, ring, change colours or the direction of the text: C0, DEL, C1, and the bidi
# controls. JSON can also name lone surrogates, which cannot be written.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SURROGATES = range(0xD800, 0xE000)
_SPACES = (0x09, 0x0A, 0x0D, 0x85, 0x2028, 0x2029)
_HARMLESS = dict.fromkeys([*_CONTROLS, *_SURROGATES], "\N{REPLACEMENT CHARACTER}") | dict.fromkeys(_SPACES, " ")

# Each unit in seconds, and the one below it.
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
# What rounds to 10.0 s is shown as 10 s.
_TENTHS_BELOW = 9.95


def clean(text: str) -> str:
    """Return a foreign text on one line, without characters that control the terminal."""
    return text.translate(_HARMLESS)


def clean_lines(text: str) -> list[str]:
    """Return the lines of a foreign text, each without characters that control the terminal."""
    return [clean(line) for line in text.replace("\r\n", "\n").split("\n")]


def duration(seconds: float, *, tenths: bool = True) -> str:
    """Return a duration as `12 s`, `2 m 31 s`, `1 h 05 m` or `3 d 04 h`, and below 10 s as `0.4 s` with `tenths`."""
    seconds = max(0.0, seconds)
    if tenths and seconds < _TENTHS_BELOW:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, part_unit in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02} {part_unit}"
    return f"{whole} s"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 step` or `2 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pretty_json(document: bytes | bytearray) -> str:
    """Return a JSON document with indentation, without characters that control the terminal."""
    try:
        text = json.dumps(json.loads(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = bytes(document).decode(errors="replace")  # nested too deeply, or with too long a number
    return "\n".join(clean_lines(text))
