"""Finds where a JSON value ends, however deep it is nested, and without building it.

NaN, Infinity and -Infinity count as numbers, as Python's own reader and writer have it.
"""

from __future__ import annotations

import json
import re


def _nothing(_: object) -> None:
    return None


# Builds next to nothing of what it reads: a value may be large, and its numbers of any size.
_structure = json.JSONDecoder(
    parse_int=_nothing, parse_float=_nothing, parse_constant=_nothing, object_pairs_hook=_nothing
)

# Possessive throughout, because backtracking would take memory for each step.
_TOKEN = re.compile(
    r"""[ \t\n\r]*+
    (?: (?P<string> "[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
      | (?P<scalar> -?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?
                    | true | false | null | NaN | -?Infinity)
      | (?P<mark> [\[\]{},:]) )""",
    re.VERBOSE,
)

# What may come where, and what is wanted after it. S is a string, V another scalar.
_NEXT = {
    **{
        (wanted, kind): after
        for wanted in ("value", "value or ]")
        for kind, after in (("S", "comma"), ("V", "comma"), ("[", "value or ]"), ("{", "name or }"))
    },
    ("value or ]", "]"): "closed",
    ("name or }", "S"): "colon",
    ("name or }", "}"): "closed",
    ("name", "S"): "colon",
    ("colon", ":"): "value",
    ("comma", ","): "next",
    ("comma", "]"): "closed",
    ("comma", "}"): "closed",
}


def end_of(text: str, position: int) -> int:
    """Where the JSON value that begins at `position` ends. Raises `ValueError` where there is none."""
    try:
        return _structure.raw_decode(text, position)[1]
    except RecursionError:
        return _end_of_deep(text, position)


def _end_of_deep(text: str, position: int) -> int:
    # Some ten times slower, and without recursion.
    closers: list[str] = []
    wanted = "value"
    while match := _TOKEN.match(text, position):
        kind = match["mark"] or ("S" if match["string"] else "V")
        after = _NEXT.get((wanted, kind))
        if after is None:
            break
        position = match.end()
        wanted = after
        if kind == "[":
            closers.append("]")
        elif kind == "{":
            closers.append("}")
        elif wanted == "closed":
            if closers.pop() != kind:
                break
            wanted = "comma"
        elif wanted == "next":
            wanted = "value" if closers[-1] == "]" else "name"
        if not closers:
            return position
    raise ValueError(f"no JSON at {position}")


# Possessive, as above.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|([\[{])|([\]}])', re.DOTALL)


def shallow_end(text: str, max_depth: int) -> int:
    """Return where the nesting of `text` first exceeds `max_depth`, or the length of `text` if it never does."""
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[1]:
            depth += 1
            if depth > max_depth:
                return match.start()
        elif match[2]:
            depth -= 1
    return len(text)
