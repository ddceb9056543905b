"""The generated code and its generator."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT


@pytest.fixture
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "scripts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_left_over_and_stale_files_are_reported(generate: Any, tmp_path: Path) -> None:
    for folder in ("expected", "actual"):
        (tmp_path / folder / "v1").mkdir(parents=True)
        (tmp_path / folder / "v1" / "same.py").write_text("same")
        (tmp_path / folder / "v1" / "other.py").write_text(folder)
    (tmp_path / "expected" / "v1" / "new.py").touch()
    (tmp_path / "actual" / "v1" / "old.py").touch()
    assert generate.differences(tmp_path / "expected", tmp_path / "actual") == [
        "missing: v1/new.py",
        "left over: v1/old.py",
        "stale: v1/other.py",
    ]


def test_the_generated_code_is_up_to_date(generate: Any, tmp_path: Path) -> None:
    generate.generate(tmp_path)
    assert generate.differences(tmp_path, ROOT / "generated") == []
