"""Finds where a JSON value ends, however deep it is nested, and without building it; mends one that broke off."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    for end, closers, _ in _steps(text, position):
        if not closers:
            return end
    raise ValueError(f"no JSON at {position}")


def mended(text: str) -> str:
    """JSON that broke off, up to its last whole value, with what was open closed; "" where there is none."""
    whole, open_there = 0, ""
    for end, closers, value_ended in _steps(text, 0):
        if value_ended:
            whole, open_there = end, "".join(reversed(closers))
        if not closers:
            break
    return text[:whole] + open_there


def _steps(text: str, position: int) -> Iterator[tuple[int, list[str], bool]]:
    """Token by token: where it ends, the closers of what is open there, and whether a value has just ended.

    Ends where no token can follow; the value is whole once nothing is open.
    """
    closers: list[str] = []
    wanted = "value"
    while match := _TOKEN.match(text, position):
        kind = match["mark"] or ("S" if match["string"] else "V")
        if (wanted, kind) not in _NEXT:
            return
        position = match.end()
        wanted = _NEXT[wanted, kind]
        if kind in ("[", "{"):
            closers.append("]" if kind == "[" else "}")
        elif wanted == "closed":
            if closers.pop() != kind:
                return
            wanted = "comma"
        elif wanted == "next":
            wanted = "value" if closers[-1] == "]" else "name"
        yield position, closers, wanted == "comma"
        if not closers:
            return
