"""Check that docs/internals/known-pitfalls.md names an existing test for each pitfall."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in (ROOT / "docs" / "internals" / "known-pitfalls.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| pitfall", "| ---"))
]


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_pitfall_has_an_existing_test_or_a_reason(row: tuple[str, str]) -> None:
    _, tests = row
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named or tests.startswith("not tested: ")
    assert [(file, name) for file, name in named if name not in names_in(file)] == []
