from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import MountedSecret

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import Authority


@pytest.fixture(autouse=True)
def _no_contexts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the config file of the person who runs the tests out of them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-contexts"))


@pytest.fixture
def client(tmp_path: Path, authority: Authority) -> MountedSecret:
    """The files of a client."""
    folder = tmp_path / "client"
    folder.mkdir()
    files = MountedSecret(folder)
    files.put(authority.client("billing"))
    return files
