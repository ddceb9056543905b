"""The modules that a command imports, in a process of its own: they decide how long it takes to start."""

import os
import re
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.app import app

_IMPORT = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s*(\S+)")
# Typer with its dependencies, but without the two that it imports when it needs them: Rich and pydantic.
LIGHT = {"annotated_doc", "shellingham", "typer"}
# Our own other packages, and those of the standard library that take longer than any module of the command line.
SLOW = {"jobgateway", "jobgateway_client", "asyncio", "concurrent", "email", "http", "multiprocessing", "ssl"}
# What shows progress, serves or reads the upstream.
OF_OTHERS = {"aiohttp", "httpx", "jinja2", "opentelemetry", "prometheus_client", "pydantic", "rich", "structlog"}
# What `serve` needs only with some settings, or for some of its commands.
OPTIONAL = {"cryptography", "httpx", "jinja2", "jobgateway_client", "opentelemetry", "redis", "tomlkit"}
# Prints how often Python has collected garbage when the event loop would start.
COLLECTIONS = """
import gc, uvloop
from gateway.__main__ import main
collections = []
gc.callbacks.append(lambda phase, info: collections.append(info))
def run(main):
    main.close()
    print(len(collections), gc.isenabled())
    raise SystemExit
uvloop.run = run
main()
"""


@cache
def imported(*arguments: str) -> set[str]:
    """Return the packages that Python imports, but not those that it only looks for."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    command = [sys.executable, "-X", "importtime", *arguments]
    environment["JOBGATEWAY_TOKEN"] = "any"
    # -X importtime writes to the standard error of this process.
    lines = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stderr  # noqa: S603
    return {name.partition(".")[0] for name in _IMPORT.findall(lines)}


def foreign(names: set[str]) -> set[str]:
    """Return the installed packages of others in `names`, without those that every process of this Python imports."""
    return (names & set(metadata.packages_distributions())) - {"gateway"} - imported("-c", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--nope"],
        ["nope"],
        ["run", "--nope"],
        ["run", "-h"],
        ["doctor", "-h"],
        ["ping", "-h"],
        ["dev", "-h"],
        ["completion", "zsh"],
        ["__complete", "jobgateway get -o "],
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_help_completion_and_wrong_usage_import_nothing_slow(arguments: list[str]) -> None:
    names = imported("-m", "gateway", *arguments)
    assert foreign(names) == LIGHT
    assert not names & SLOW


def test_the_version_imports_no_other_package() -> None:
    assert foreign(imported("-m", "gateway", "--version")) == LIGHT


def test_a_call_imports_no_display_and_no_server() -> None:
    # Nothing listens there, so this is also the report of an error.
    names = imported("-m", "gateway", "get", "5", "--target", "127.0.0.1:9")
    assert "grpc" in names
    assert not names & OF_OTHERS


def test_a_server_imports_only_what_its_settings_need() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It ends at the last step of its start, because it cannot listen.
        options = ("--upstream-url", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        names = imported("-m", "gateway", "serve", *options, "--admin-listen", "127.0.0.1:0")
    assert "prometheus_client" in names
    assert not names & OPTIONAL


def test_a_server_collects_no_garbage_while_it_imports() -> None:
    command = [sys.executable, "-c", COLLECTIONS, "serve", "--upstream-url", "http://127.0.0.1:9"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout  # noqa: S603
    assert output == "0 False\n"


def test_the_version_is_that_of_the_packages() -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    line = f"jobgateway {metadata.version('jobgateway')} (Python {python}, grpcio {metadata.version('grpcio')})\n"
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, line)


def test_every_command_has_both_names_of_the_help_option() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # it is a group
    for name in commands:
        short, long = (CliRunner().invoke(app, [name, option]) for option in ("-h", "--help"))
        assert (long.exit_code, short.stdout) == (0, long.stdout)
        assert f"Usage: jobgateway {name}" in long.stdout
        assert "-h, --help" in long.stdout
