"""docs/traps.md names a test for each trap, and the tests are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in (TESTS.parent / "docs" / "traps.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| trap", "| ---"))
]


def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_trap_has_a_test_that_is_there_or_a_reason(row: tuple[str, str]) -> None:
    _, held_by = row
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", held_by)
    assert named or held_by.startswith("not tested: ")
    assert [(file, name) for file, name in named if name not in names_in(file)] == []
