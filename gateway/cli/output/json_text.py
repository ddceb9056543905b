"""JSON as it is shown on a terminal: its tokens stay as they were written. This module has no slow imports."""

import json
import re

from gateway.cli.output.formatting import clean_lines

# Characters with which a terminal or a pager does something, and that JSON allows within strings.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Possessive, because backtracking over a long string would take much memory.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},:]|[^][{},:"\s]++')


def escaped(text: str) -> str:
    """Return JSON without characters that control the terminal: they become escapes of the same meaning."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def pretty_json(document: bytes | bytearray) -> str:
    """Return a JSON document as a terminal shows it, with indentation.

    No token changes, except that control characters become escapes: numbers keep all digits, and repeated keys stay.
    Other documents than JSON keep their white space, too.
    """
    try:
        text = document.decode()
        # Only a check. Numbers are not parsed, because Python limits their digits.
        json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        # Not JSON, or nested too deeply.
        return "\n".join(clean_lines(document.decode(errors="replace")))
    return _indented(escaped(text))


def _indented(text: str) -> str:
    parts: list[str] = []
    depth = 0
    is_empty = False
    for part in _TOKEN.findall(text):
        if part in ("]", "}"):
            depth -= 1
            if not is_empty:
                parts.append(_line_break(depth))
        elif is_empty:
            parts.append(_line_break(depth))
        parts.append(part)
        is_empty = part in ("[", "{")
        depth += is_empty
        if part == ",":
            parts.append(_line_break(depth))
        elif part == ":":
            parts.append(" ")
    return "".join(parts)


def _line_break(depth: int) -> str:
    return "\n" + "  " * depth
