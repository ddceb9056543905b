"""`serve --check`, and the options of `serve`, as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.parsing import serve_options
from gateway.config import PREFIX, Settings

PLACES = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")


def check(*options: str, **variables: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JOBGATEWAY_", "OTEL_"))}
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "gateway", "serve", "--check", *PLACES, *options],
        env=environment | {"COLUMNS": "80", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["true", "1", "Yes"])
def test_a_check_by_its_variable_is_the_same_check(variable: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "gateway", "serve", *PLACES, "--upstream-url", "https://127.0.0.1/api"],
            env=os.environ | {"JOBGATEWAY_SERVE_CHECK": variable},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (4, "standard output cannot be written: No space left on device\n")


def test_only_numbers_are_options_with_a_number() -> None:
    settings = {name: field.annotation for name, field in Settings.model_fields.items()}
    numbers = [name for name in settings if serve_options.metavar(name) in ("NUMBER", "SECONDS")]
    switches = [name for name, of_type in settings.items() if of_type is bool]
    expected = [name for name, of_type in settings.items() if of_type in (int, float, int | None)]
    assert [name for name in numbers if name not in switches] == expected


@pytest.mark.slow
def test_three_kinds_of_mistakes_are_reported_together() -> None:
    code, out, err = check(
        "--max-watches=0",
        JOBGATEWAY_UPSTREAM_URL="https://127.0.0.1/api",
        JOBGATEWAY_MAX_CALL="5",
        JOBGATEWAY_UPSTREAM_TOKEN_FILE="/nowhere/token",
    )
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "JOBGATEWAY_MAX_CALL: there is no such setting; did you mean JOBGATEWAY_MAX_CALLS?",
        "--max-watches: must be at least 1 (got '0')",
        "JOBGATEWAY_UPSTREAM_TOKEN_FILE: /nowhere/token cannot be read (No such file or directory); check the path and "
        "its permissions",
        "3 mistakes; the gateway would not start",
    ]


@pytest.mark.slow
def test_a_file_gives_settings_and_its_mistakes_have_lines(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('upstream_url = "https://127.0.0.1/api"\n\n# Few.\nmax_call = 7\n')
    code, out, err = check("--config", str(file))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{file}:4: max_call: there is no such setting; did you mean max_calls?",
        "1 mistake; the gateway would not start",
    ]
    file.write_text(file.read_text().replace("max_call", "max_calls"))
    code, out, err = check(JOBGATEWAY_SERVE_CONFIG=str(file), JOBGATEWAY_CERT_FILE="c.pem", JOBGATEWAY_TARGET="x:1")
    assert (code, err.splitlines()) == (
        0,
        [
            "remark: JOBGATEWAY_CERT_FILE: is for the commands that call a gateway, and not used here; did you mean "
            "JOBGATEWAY_TLS_CERT_FILE?",
            "the gateway would start with these settings",
        ],
    )
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["JOBGATEWAY_MAX_CALLS"] == ["7", "file"]
    assert rows["JOBGATEWAY_LISTEN"] == ["127.0.0.1:0", "flag"]


@pytest.mark.slow
def test_valid_settings_are_shown_without_secrets(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    code, out, err = check(
        "--no-reflection",
        "--max-calls",
        "7",
        JOBGATEWAY_UPSTREAM_URL="https://127.0.0.1/api",
        JOBGATEWAY_MAX_CALLS="8",
        JOBGATEWAY_STATE_URL="redis://user:hunter2@127.0.0.1:1/0?password=hunter2",
        JOBGATEWAY_STATE_KEY_FILE=str(key),
    )
    assert (code, err) == (0, "the gateway would start with these settings\n")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(rows) == [PREFIX + name.upper() for name in Settings.model_fields]
    shown = {
        "UPSTREAM_URL": ["https://127.0.0.1/api", "environment"],
        "REFLECTION": ["false", "flag"],
        "MAX_CALLS": ["7", "flag"],
        "STATE_URL": ["redis://***@127.0.0.1:1/0?***", "environment"],
        "POLL_OUTAGE_SECONDS": ["300", "default"],
        "TLS_CERT_FILE": ["not", "set", "default"],
    }
    assert {name: rows[PREFIX + name].split() for name in shown} == shown
    assert "hunter2" not in out


@pytest.mark.slow
def test_an_address_in_use_is_said_with_the_conclusion() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = check("--listen", address, JOBGATEWAY_UPSTREAM_URL="https://127.0.0.1/api")
    assert code == 0
    assert err.splitlines() == [
        f"remark: --listen: {address} is in use; stop the process that uses it before the start",
        "the gateway would start with these settings, once its addresses are free",
    ]
