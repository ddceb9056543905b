"""The import contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_imports_follow_the_contracts() -> None:
    """The contracts are in pyproject.toml."""
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own tool
    assert done.returncode == 0, done.stdout


def test_nothing_imports_the_command_line() -> None:
    importers = [
        path
        for path in (ROOT / "gateway").rglob("*.py")
        if "gateway.cli" in path.read_text() and "cli" not in path.parts and path.name != "__main__.py"
    ]
    assert importers == []
