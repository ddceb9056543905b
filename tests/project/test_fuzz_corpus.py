"""What the fuzz targets begin with and what they found; `make fuzz` looks for more."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz import TARGETS
from tests.support.paths import ROOT

CORPUS = ROOT / "fuzz" / "corpus"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_kept_breaks_no_promise(path: Path) -> None:
    importlib.import_module(f"fuzz.{path.parent.name}").check(path.read_bytes())


def test_every_target_has_something_to_begin_with() -> None:
    assert {folder.name for folder in CORPUS.iterdir() if any(folder.iterdir())} == set(TARGETS)
