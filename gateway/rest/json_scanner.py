"""Finds where a JSON value ends, however deep it is nested, and without building it."""

from __future__ import annotations

import json
import re
from typing import NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _nothing(_: object) -> None:
    return None


# Builds next to nothing of what it reads: a value may be large, and its numbers of any size.
_structure = json.JSONDecoder(
    parse_int=_nothing, parse_float=_nothing, parse_constant=_refuse_constant, object_pairs_hook=_nothing
)

# Possessive throughout, for each step to go back to would take memory.
_TOKEN = re.compile(
    r"""[ \t\n\r]*+
    (?: (?P<string> "[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
      | (?P<scalar> -?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)? | true | false | null)
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
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"no JSON at {position}")
        kind = match["mark"] or ("S" if match["string"] else "V")
        if (wanted, kind) not in _NEXT:
            raise ValueError(f"no JSON at {position}")
        position = match.end()
        wanted = _NEXT[wanted, kind]
        if kind in ("[", "{"):
            closers.append("]" if kind == "[" else "}")
        elif wanted == "closed":
            if closers.pop() != kind:
                raise ValueError(f"no JSON at {position}")
            wanted = "comma"
        elif wanted == "next":
            wanted = "value" if closers[-1] == "]" else "name"
        if not closers:
            return position
