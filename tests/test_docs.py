"""The documents against the tree: links, what is logged, the tests that they name, and how figures are measured."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Of features that are not merged yet. Whoever merges one takes it out of here: a test asks for that.
COMING = {"docs/metrics.md", *(f"tests/test_{name}.py" for name in ("admin", "metrics", "own_token", "tls"))}


def test_what_is_coming_is_not_there_yet() -> None:
    assert not [name for name in COMING if (ROOT / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = (document.parent / link).resolve() if link else document
        if str(target.relative_to(ROOT)) not in COMING:
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def logged() -> set[str]:
    """The events that the gateway's own modules log: `_log.info("...")`, or a bound method of a logger."""
    events = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        if {"simulator", "cli"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _writes_a_line(node.func):
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: an event is a literal"
                assert isinstance(event.value, str)
                events.add(event.value)
    return events


def _writes_a_line(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "write"
    return isinstance(function, ast.Attribute) and function.attr in LEVELS and "log" in ast.unparse(function.value)


def test_each_log_line_is_documented_and_nothing_else() -> None:
    section = OPERATIONS.partition("## Log lines\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([^`]+)` \| (\w+) \|", section, re.MULTILINE)
    assert {event for event, _ in documented} == logged()
    assert {level for _, level in documented} <= LEVELS


def test_the_figures_can_be_measured_again() -> None:
    command = [sys.executable, "scripts/sizing.py", "--watches", "3", "--interval", "0.05", "--seconds", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^idle process: \d+ MB$", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"^each of 3 watches of a job each: -?\d+ kB$", done.stdout, re.MULTILINE)


def test_each_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(test_\w+)::(test_\w+)`", SECURITY)
    assert len(named) == SECURITY.count("::") > 20
    for module, test in named:
        path = f"tests/{module}.py"
        if path not in COMING:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), test
