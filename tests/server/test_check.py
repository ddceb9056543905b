"""`check` with real files, addresses and OpenTelemetry's variables."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from gateway.config import Settings
from gateway.server.check import Findings, check
from gateway.server.gateway import Gateway
from gateway.submit.state import check_state
from tests.support.certificates import Authority

KEY = b"k" * 32 + b"\n"
PERMISSIONS = "check its permissions, and that it is not read-only"


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> dict[str, Path]:
    """Valid files, by the settings that name them."""
    certificate = authority.server()
    contents = {
        "tls_cert_file": certificate.chain,
        "tls_key_file": certificate.key,
        "tls_client_ca_file": authority.pem,
        "upstream_token_file": b"token\n",
        "state_key_file": KEY,
    }
    paths = {name: tmp_path / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


async def checked(**settings: Any) -> Findings:
    addresses = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    return await check(Settings.model_validate({"upstream_url": "http://127.0.0.1:1", **addresses, **settings}))


def subjects(found: Findings) -> list[str]:
    return [line.partition(":")[0].removeprefix("JOBGATEWAY_") for line in found.problems]


async def test_valid_files_have_no_findings(files: dict[str, Path], tmp_path: Path) -> None:
    found = await checked(**files, state_url=f"sqlite://{tmp_path}/state")
    assert (found.problems, found.remarks) == ([], [])


async def test_all_files_are_reported_together(files: dict[str, Path], tmp_path: Path) -> None:
    files["tls_cert_file"].unlink()
    files["tls_key_file"].unlink()
    files["tls_client_ca_file"].write_bytes(b"no certificate")
    files["upstream_token_file"].write_bytes(b"two tokens")
    files["state_key_file"].write_bytes(b"short")
    found = await checked(**files, state_url=f"sqlite://{tmp_path}/nowhere/state")
    expected = ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"]
    assert subjects(found) == [*expected, "UPSTREAM_TOKEN_FILE", "STATE_KEY_FILE", "STATE_URL"]
    assert all(re.search(r"; [a-z]|a key has at least", line) for line in found.problems)


async def test_a_key_of_another_certificate_is_a_mistake(files: dict[str, Path], authority: Authority) -> None:
    files["tls_key_file"].write_bytes(authority.server().key)
    (problem,) = (await checked(**files)).problems
    assert re.match(r"JOBGATEWAY_TLS_KEY_FILE: .* does not belong to the certificate in JOBGATEWAY_TLS_CERT", problem)


async def test_an_expired_certificate_is_a_remark(files: dict[str, Path], authority: Authority) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    expired = authority.server(not_before=past - timedelta(days=1), not_after=past)
    files["tls_cert_file"].write_bytes(expired.chain)
    files["tls_key_file"].write_bytes(expired.key)
    found = await checked(**files)
    assert found.problems == []
    assert found.remarks == ["JOBGATEWAY_TLS_CERT_FILE: clients may reject it: certificate has expired"]


async def test_the_check_creates_no_file(tmp_path: Path) -> None:
    found = await checked(state_url=f"sqlite://{tmp_path}/state")
    assert found.problems == []
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a name is enough


async def test_a_database_without_its_key_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"SQLite format 3\0")
    (problem,) = (await checked(state_url=f"sqlite://{tmp_path}/state")).problems
    assert re.match(r"JOBGATEWAY_STATE_KEY_FILE: .*state.key, the key of .*, is missing", problem)


def test_a_read_only_folder_is_a_mistake() -> None:
    # Not in pytest's folder, which no other user may enter.
    with TemporaryDirectory() as name:
        folder, key = Path(name) / "data", Path(name) / "key"
        folder.parent.chmod(0o755)
        folder.mkdir(mode=0o500)
        key.write_bytes(KEY)
        child = os.fork()
        if not child:
            # Nothing is read-only for root.
            if not os.getuid():
                os.setuid(65_534)
            problems = list(check_state(f"sqlite://{folder}/state", key))
            os._exit(problems != [f"JOBGATEWAY_STATE_URL: {folder} cannot be written; {PERMISSIONS}"])
        assert os.waitpid(child, 0)[1] == 0


async def test_an_address_in_use_is_no_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = await checked(listen=address)
    assert found.problems == []
    assert found.in_use == [f"JOBGATEWAY_LISTEN: {address} is in use; stop the process that uses it before the start"]


@pytest.mark.parametrize(
    ("listen", "why"),
    [("nowhere.invalid:1", r"cannot be bound: .+"), ("192.0.2.1:0", "cannot be bound: Cannot assign")],
)
async def test_an_address_that_cannot_be_bound_is_a_mistake(listen: str, why: str) -> None:
    (problem,) = (await checked(admin_listen=listen)).problems
    assert re.match(f"JOBGATEWAY_ADMIN_LISTEN: {listen} {why}", problem)


@pytest.mark.parametrize(
    ("listen", "admin_listen", "same"),
    [
        ("127.0.0.1:{0}", "127.0.0.1:{0}", True),
        ("localhost:{0}", "127.0.0.1:{0}", True),
        ("127.0.0.1:{0}", "0.0.0.0:{0}", True),
        ("127.0.0.1:{0}", "127.0.0.2:{0}", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
async def test_the_two_addresses_must_differ(listen: str, admin_listen: str, same: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = await checked(listen=listen.format(port), admin_listen=admin_listen.format(port))
    assert subjects(found) == (["ADMIN_LISTEN"] if same else [])


async def test_each_variable_of_opentelemetry_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://secret@collector")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "-1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    found = await checked(upstream_url="https://127.0.0.1:1")
    assert subjects(found) == ["SSL_CERT_FILE", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TIMEOUT"]
    assert "secret" not in "".join(found.problems)


async def test_what_passes_the_check_starts(files: dict[str, Path], tmp_path: Path) -> None:
    together = {**files, "state_url": f"sqlite://{tmp_path}/state"}
    assert (await checked(**together)).problems == []
    values = {"upstream_url": "http://127.0.0.1:1", "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    gateway = Gateway(Settings.model_validate({**values, **together}))
    await gateway.start()
    await gateway.stop(0)
