"""Run each fuzz target on its corpus: the first inputs and the past findings. `make fuzz` searches for more."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz import TARGETS
from tests.support.paths import ROOT

CORPUS = ROOT / "fuzz" / "corpus"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_corpus_finds_no_defect(path: Path) -> None:
    importlib.import_module(f"fuzz.{path.parent.name}").check(path.read_bytes())


def test_every_target_has_a_corpus() -> None:
    assert {folder.name for folder in CORPUS.iterdir() if any(folder.iterdir())} == set(TARGETS)
