from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
import structlog

from gateway.cli.servers.demo_servers import DemoServers
from tests.support.certificates import MountedSecret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certificates import Authority


@pytest.fixture(autouse=True)
def _no_contexts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the config file and the variables of the person who runs the tests out of them."""
    for name in [each for each in os.environ if each.startswith("JOBGATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-contexts"))


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The address of a gateway in front of a simulator, which run in this process without a log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with DemoServers() as servers:
        yield servers.gateway
    structlog.reset_defaults()


@pytest.fixture
def client(tmp_path: Path, authority: Authority) -> MountedSecret:
    """The files of a client."""
    folder = tmp_path / "client"
    folder.mkdir()
    files = MountedSecret(folder)
    files.put(authority.client("billing"))
    return files
