from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_imports_point_one_way() -> None:
    """The contracts stand in pyproject.toml."""
    command = Path(sys.executable).parent / "lint-imports"
    found = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own tool
    assert found.returncode == 0, found.stdout


def test_nothing_imports_the_command_line() -> None:
    importers = [
        path
        for path in (ROOT / "gateway").rglob("*.py")
        if "gateway.cli" in path.read_text() and path.parent.name != "cli" and path.name != "__main__.py"
    ]
    assert importers == []
