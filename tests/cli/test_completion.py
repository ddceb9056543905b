"""Completion: the candidates for any line, and what each shell makes of them."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.commands import candidates
from scripts import cli_reference
from tests.support.manifests import tool

BIN = Path(sys.executable).parent
GROUP: Any = typer.main.get_command(app)
ROOT = typer.Context(GROUP, info_name="jobgateway")
COMMANDS = {each.name: each for each in cli_reference.commands()}


def values(line: str) -> list[str]:
    return [value for value, _ in candidates.found(ROOT, line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jobgateway wa", ["watch", "wait"]),
        ("jobgateway nothing --t", []),
        ("jobgateway get --t", ["--target", "--token-file", "--tls"]),
        ("jobgateway get --tls --target a:1 --t", ["--token-file"]),
        ("jobgateway get --tls 5 --target=a:1 --t", ["--token-file"]),
        ("jobgateway run --param a=1 --para", ["--param", "--params", "--params-file"]),
        ("jobgateway get -o ", ["text", "json", "name"]),
        ("jobgateway get --output j", ["json"]),
        ("jobgateway get --output=j", ["--output=json"]),
        ("jobgateway get --nothing=", []),
        ("jobgateway get --save ", [":files"]),
        ("jobgateway get --save=a", [":files"]),
        ("jobgateway get -- --t", []),
        ("jobgateway get ", []),
        ("jobgateway run --params '{\"a\": 1}' --params-f", ["--params-file"]),
        ('jobgateway run --params \'{"a": ', []),
        ("jobgateway completion ", ["bash", "zsh", "fish"]),
        ("jobgateway completion bash ", []),
        ("jobgateway __", []),
        ("jobgateway serve --no-r", ["--no-reflection"]),
        ("jobgateway serve --log-format ", ["json", "text"]),
        ("jobgateway serve --log-level w", ["warning"]),
        ("jobgateway serve --reflection ", []),
    ],
)
def test_a_line_has_these_candidates(line: str, expected: list[str]) -> None:
    assert values(line) == expected


def test_an_empty_word_has_all_commands() -> None:
    assert sorted(values("jobgateway ")) == sorted(each for each in COMMANDS if " " not in each)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_and_each_value_can_be_completed(command: str) -> None:
    options = {
        name: each
        for each in COMMANDS[command].click.get_params(COMMANDS[command].context)
        if each.param_type_name == "option" and not each.hidden
        for name in (*each.opts, *each.secondary_opts)
        if name.startswith("--")
    }
    assert sorted(values(f"jobgateway {command} --")) == sorted(options)
    for name, option in options.items():
        expected = [":files"] if option.metavar == "FILE" else (option.metavar or "").split("|")
        if option.metavar == "FILE" or len(expected) > 1:
            assert values(f"jobgateway {command} {name} ") == expected


def test_a_candidate_is_a_value_and_the_first_sentence_about_it() -> None:
    done = CliRunner().invoke(app, ["__complete", "jobgateway get --t"], prog_name="jobgateway")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "--target\tThe address of the gateway"


def completed(shell: list[str], environment: dict[str, str], setup: str, typed: list[str]) -> list[str]:
    """Return the lines after Tab, without spaces at the end, from an interactive shell on a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(  # noqa: S603 - a shell, with our lines
        ["setsid", "--ctty", *shell],  # noqa: S607 - of util-linux
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        # Tab, then to the start of the line, which becomes the argument of `printf`.
        keys = [f"{each}\t\x01printf '<%s>\\n' '\x05'\n" for each in typed]
        try:
            return list(conversation(master, [f"{setup}\n", *keys, "exit\n"]))[-len(typed) :]
        finally:
            process.kill()
            os.close(master)


def conversation(master: int, keys: list[str]) -> list[str]:
    for each in keys:
        os.write(master, each.encode())
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        pass  # the shell has left the terminal
    return re.findall(r"<(jobgateway[^<>\r\n]*?) *>\r", shown.decode())


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user whose home is `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBGATEWAY_", "XDG_"))}
    return kept | {"HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": "/dev/null"}


def script(shell: str) -> str:
    return CliRunner().invoke(app, ["completion", shell], prog_name="jobgateway").stdout


def in_bash(folder: Path, typed: list[str]) -> list[str]:
    bash = tool(["bash"])
    return completed([*bash, "--norc", "-i"], environment(folder), "source <(jobgateway completion bash)", typed)


def in_zsh(folder: Path, typed: list[str]) -> list[str]:
    zsh = tool(["zsh"])
    (folder / "_jobgateway").write_text(script("zsh"))
    setup = f"fpath=({shlex.quote(str(folder))} $fpath); autoload -U compinit; compinit -u -D"
    return completed([*zsh, "-f", "-i"], environment(folder), setup, typed)


def in_fish(folder: Path, typed: list[str]) -> list[str]:
    fish = tool(["fish"])
    completions = folder / ".config" / "fish" / "completions"
    completions.mkdir(parents=True)
    (completions / "jobgateway.fish").write_text(script("fish"))
    # Suggestions ask for candidates after each key.
    return completed([*fish, "-i"], environment(folder), "set -g fish_autosuggestion_enabled 0", typed)


@pytest.mark.slow
@pytest.mark.tools
@pytest.mark.parametrize("shell", [in_bash, in_zsh, in_fish])
def test_a_shell_completes(shell: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "my-token").touch()
    lines = {
        "jobgateway comp": "jobgateway completion",
        "jobgateway get --output=j": "jobgateway get --output=json",
        f"jobgateway get --token-file {tmp_path}/my-t": f"jobgateway get --token-file {tmp_path}/my-token",
        f"jobgateway get --token-file={tmp_path}/my-t": f"jobgateway get --token-file={tmp_path}/my-token",
        "jobgateway get --target 127.0.0.1:50051 --sa": "jobgateway get --target 127.0.0.1:50051 --save",
    }
    assert shell(home, list(lines)) == list(lines.values())
