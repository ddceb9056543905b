"""The authorities that an https upstream is verified with."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.auth import authorities
from gateway.auth.authorities import client_context
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the authorities of the machine."""
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


def trusted(context: ssl.SSLContext) -> set[object]:
    return {each["serialNumber"] for each in context.get_ca_certs()}


def authority(path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(path)


def test_a_file_and_the_files_of_a_folder_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("0a1b2c3d.0", "0a1b2c3d.1", "ca.pem"):
        authority(folder / name)
    others = trusted(client_context())
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    assert len(trusted(client_context()) - others) == 2, "OpenSSL looks for hashed names only"
    authority(tmp_path / "file.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "file.pem"))
    assert len(trusted(client_context()) - others) == 3


def test_a_pipe_in_the_folder_is_left_out(tmp_path: Path, logged: list[dict[str, object]]) -> None:
    others = trusted(client_context())
    os.mkfifo(tmp_path / "none" / "0a1b2c3d.0")
    authority(tmp_path / "none" / "0a1b2c3d.1")
    assert len(trusted(client_context()) - others) == 1
    assert [line["event"] for line in logged] == ["authority.unusable"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"^SSL_CERT_DIR: .*/nowhere cannot be read \(No such file"):
        client_context()


def test_nothing_is_checked_without_a_named_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorities, "client_context", pytest.fail)
    authorities.check()
