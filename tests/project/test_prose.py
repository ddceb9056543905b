"""Tests of `scripts/prose.py` on made-up files."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def prose() -> Any:
    spec = importlib.util.spec_from_file_location("prose", ROOT / "scripts" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(prose: Any, path: Path, source: str) -> str:
    path.write_text(source)
    return " ".join(passage.text for passage in prose.passages(path))


@pytest.mark.parametrize(
    ("name", "source", "counted", "ignored"),
    [
        (
            "a.md",
            "one `two`\n\n    three\n\n```sh\nfour\n```\n[five](six.md)\n",
            ["one", "five"],
            ["two", "three", "six"],
        ),
        ("a.md", "<!-- generated -->\none\n<!-- end -->\ntwo\n", ["two"], ["one"]),
        ("a.md", "- one\n    two\n", ["one", "two"], []),
        ("a.py", '"""One."""\n\nx = "two"  # three\ny = 1  # noqa: S1 four\n', ["One", "three"], ["two", "four"]),
        ("a.proto", "// One.\nint64 two = 1;  // three\n", ["One", "three"], ["two"]),
    ],
)
def test_only_prose_counts(
    prose: Any, tmp_path: Path, name: str, source: str, counted: list[str], ignored: list[str]
) -> None:
    words = text_of(prose, tmp_path / name, source)
    assert all(each in words for each in counted)
    assert not any(each in words for each in ignored)


def test_a_figure_over_its_ceiling_is_reported(prose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    path = tmp_path / "a.py"
    path.write_text('"""Whether it is done anew, for nobody heeds it."""\n')
    figures = prose.Figures()
    figures.add(path)
    report = list(prose.complaints("here", figures, prose.PLAIN))
    assert [line for line in report if not line.startswith(" ")] == [
        "here: comma_for is 1112 per 10,000 words, over the ceiling of 3",
        "here: banned is 2, over the ceiling of 0",
        "here: openings is 1, over the ceiling of 0",
    ]
    assert "  a.py:1: 'anew'; write: again" in report
