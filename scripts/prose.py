"""Count the words of the project's English and compare them with a ceiling per area (CONTRIBUTING.md, "How we write").

Only prose counts: no code blocks, no inline code, no addresses. Without arguments, check and print the figures over their
ceilings; `--table` prints the figures of all areas.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent


class Ceiling(NamedTuple):
    """The most that an area may have: words per 10,000, then absolute numbers."""

    where: int
    what: int
    comma_for: int
    banned: int
    openings: int


PLAIN = Ceiling(where=10, what=15, comma_for=3, banned=0, openings=0)

# A path belongs to the first area that matches. The ceilings of areas that are not rewritten yet are their first figures
# plus a tenth. Set the ceiling to PLAIN when you rewrite an area.
AREAS: dict[str, tuple[str, Ceiling]] = {
    "docs: users": (r"README\.md|docs/(README|quickstart|concepts)\.md|docs/(clients|reference)/", PLAIN),
    "docs: operators, internals": (r"docs/", PLAIN),
    "docs: contributors, changes": (r"[^/]+\.md|clients/README\.md", PLAIN),
    "other pages": (r".*\.md", PLAIN),
    "proto": (r"proto/", PLAIN),
    "gateway/auth": (r"gateway/auth/", PLAIN),
    "gateway/cli": (r"gateway/cli/", PLAIN),
    "gateway/limits": (r"gateway/limits/", PLAIN),
    "gateway/rpc": (r"gateway/rpc/", PLAIN),
    "gateway/server": (r"gateway/server/", PLAIN),
    "gateway/simulator": (r"gateway/simulator/", PLAIN),
    "gateway/submit": (r"gateway/submit/", PLAIN),
    "gateway/telemetry": (r"gateway/telemetry/", PLAIN),
    "gateway/upstream": (r"gateway/upstream/", PLAIN),
    "gateway/watch": (r"gateway/watch/", PLAIN),
    "gateway, other modules": (r"gateway/", Ceiling(27, 136, 33, 7, 7)),
    "clients": (r"clients/", Ceiling(59, 165, 19, 11, 32)),
    "benchmarks, fuzz, scripts": (r"(benchmarks|fuzz|scripts)/", Ceiling(51, 157, 25, 5, 15)),
    "tests": (r"tests/", Ceiling(29, 172, 19, 14, 42)),
}

# The number of places shown for a figure.
SHOWN = 20

# Pages that are counted at their sources.
GENERATED = r"generated/|docs/reference/(api|cli)\.md"

WORDS = {
    "where": re.compile(r"\bwhere\b", re.IGNORECASE),
    "what": re.compile(r"\bwhat\b", re.IGNORECASE),
    "comma_for": re.compile(r", for (?!example\b|instance\b)", re.IGNORECASE),
}

# A word of the old dialect, and the word to use.
BANNED = {
    r"anew": "again",
    r"heed(?:s|ed|ing)?": "follow",
    r"mend(?:s|ed|ing)?": "fix",
    r"bear(?:s|ing)?|bore": "carry",
    r"who(?:ever|soever|mever)": "callers that",
    r"nobody but": "only",
    r"by (?:it|them)sel(?:f|ves)": "automatically",
    r"under way": "in flight",
    r"what is over": "requests over the limit",
    r"shall": "must, or will",
    r"(?:for|to|from|by|but|than|if|where|until|so that) who": "for callers that",
    r"who (?:is|are|has|does|finds|waits|comes|reads|asks|holds|calls)(?: \w+){0,3} (?:gets|waits|costs|finds|is|are)": "a noun",
    r"hence": "therefore",
    r"give or take": "plus or minus",
    r"and its kin": "and similar",
    r"in (?:such a|this) wise": "like this",
}
BAN = re.compile("|".join(rf"(?P<_{index}>\b(?:{each})\b)" for index, each in enumerate(BANNED)), re.IGNORECASE)

# A docstring starts with a noun or a verb.
OPENING = re.compile(r"(?:What|Who|Whose|Where|Whether|How|As|Of)\b")

_COMMENTED = {".proto", ".go", ".java", ".rs", ".ts", ".cc", ".h"}


class Passage(NamedTuple):
    """A piece of prose, with the number of its first line."""

    line: int
    text: str
    is_docstring: bool = False


def markdown(source: str) -> Iterator[Passage]:
    """Yield the lines of a page outside of code."""
    fenced = generated = False
    previous = ""
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("<!-- "):
            # Generated parts are counted at their source.
            generated = line.startswith("<!-- generated") or (generated and not line.startswith("<!-- end"))
        elif line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not generated and not (line.startswith("    ") and not previous.strip()):
            # An indented code block continues until a line is not indented.
            yield Passage(number, line)
            previous = line
            continue
        if not line.startswith("    "):
            previous = line


def python(source: str) -> Iterator[Passage]:
    """Yield the docstrings and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield Passage(node.body[0].lineno, text, is_docstring=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(token.start[0], token.string.lstrip("# "))


def comments(source: str) -> Iterator[Passage]:
    """Yield the `//` comments of a source file."""
    for number, line in enumerate(source.splitlines(), 1):
        found = re.match(r"(?:.*[;{},)] )?\s*//[/!]? ?(.*)", line)
        if found:
            yield Passage(number, found[1])


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a file, without inline code, links' addresses and comments for tools."""
    source = path.read_text()
    if path.suffix == ".md":
        found = markdown(source)
    elif path.suffix == ".py":
        found = python(source)
    else:
        found = comments(source)
    for each in found:
        text = re.sub(r"``.+?``|`[^`\n]*`", " CODE ", each.text)
        text = re.sub(r"\]\([^)]*\)|https?://\S+|<!--.*?-->|\bnoqa\b.*|\btype: ignore.*", " ", text)
        yield each._replace(text=text)


class Figures:
    """The figures of one area, with the places of all findings."""

    def __init__(self) -> None:
        """Start without findings."""
        self.words = 0
        self.found: dict[str, list[str]] = {name: [] for name in Ceiling._fields}

    def add(self, path: Path) -> None:
        """Count a file."""
        for passage in passages(path):
            place = f"{path.relative_to(ROOT)}:{passage.line}"
            self.words += len(re.findall(r"[A-Za-z][\w'-]*", passage.text))
            for name, pattern in WORDS.items():
                self.found[name] += [f"{place}: {each[0].strip()}" for each in pattern.finditer(passage.text)]
            for each in BAN.finditer(passage.text):
                advice = list(BANNED.values())[int((each.lastgroup or "_0")[1:])]
                self.found["banned"].append(f"{place}: {each[0]!r}; write: {advice}")
            if passage.is_docstring and OPENING.match(passage.text):
                self.found["openings"].append(f"{place}: a docstring starts with {passage.text.split()[0]!r}")

    def rates(self) -> Ceiling:
        """Return the figures as a ceiling states them."""
        count = {name: len(found) for name, found in self.found.items()}
        per_10000 = {name: -(-count[name] * 10_000 // max(self.words, 1)) for name in WORDS}
        return Ceiling(**(count | per_10000))


def measure() -> dict[str, Figures]:
    """Count all areas."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own arguments
    paths = [
        ROOT / each
        for each in sorted(set(listed.stdout.split("\n")))
        if Path(each).suffix in {".md", ".py"} | _COMMENTED
    ]
    areas = {name: Figures() for name in AREAS}
    for path in paths:
        relative = str(path.relative_to(ROOT))
        if not path.exists() or re.match(GENERATED, relative):
            continue
        for name, (pattern, _) in AREAS.items():
            if re.match(pattern, relative):
                areas[name].add(path)
                break
    return areas


def table(areas: dict[str, Figures]) -> str:
    """Return the figures of all areas as a table."""
    lines = [f"{'area':28} {'words':>7} {'where':>6} {'what':>6} {', for':>6} {'banned':>6} {'openings':>8}"]
    for name, figures in areas.items():
        where, what, comma_for, banned, openings = figures.rates()
        lines.append(f"{name:28} {figures.words:7} {where:6} {what:6} {comma_for:6} {banned:6} {openings:8}")
    return "\n".join(lines)


def complaints(name: str, figures: Figures, ceiling: Ceiling) -> Iterator[str]:
    """Yield a line for each figure over its ceiling, and lines that show the places."""
    for field, most, is_now in zip(Ceiling._fields, ceiling, figures.rates(), strict=True):
        if is_now > most:
            unit = " per 10,000 words" if field in WORDS else ""
            yield f"{name}: {field} is {is_now}{unit}, over the ceiling of {most}"
            found = figures.found[field]
            yield from (f"  {place}" for place in found[:SHOWN])
            if len(found) > SHOWN:
                yield f"  and {len(found) - SHOWN} more"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="print the figures of all areas")
    arguments = parser.parse_args()
    areas = measure()
    if arguments.table:
        print(table(areas))
        return
    found = [line for name, (_, ceiling) in AREAS.items() for line in complaints(name, areas[name], ceiling)]
    sys.exit("\n".join([*found, 'see "How we write" in CONTRIBUTING.md']) if found else 0)


if __name__ == "__main__":
    main()
