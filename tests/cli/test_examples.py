"""The examples in the help: each can be parsed, and each call and check runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.options.shared import DEMO_TOKEN
from gateway.cli.parsing.examples import EXAMPLES
from scripts import cli_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {each.name: each for each in cli_reference.commands()}
BIN = Path(sys.executable).parent

# They serve until Ctrl-C, take long, or write into the home of zsh and fish.
NOT_RUN = re.compile(r"jobgateway (dev|demo|simulate|serve(?!.* --check)|completion (zsh|fish))\b")


def examples() -> Iterator[tuple[str, str]]:
    """Yield each example: its command, and its lines up to the next comment."""
    for command, text in EXAMPLES.items():
        for each in re.split(r"^#.*\n", text.strip() + "\n", flags=re.MULTILINE):
            if each:
                yield command, each


def calls(lines: str) -> list[list[str]]:
    """Return the words of each call of `jobgateway` in lines of a shell."""
    return [shlex.split(each) for each in re.findall(r"\bjobgateway ([^|)>;\n]*)", lines.replace("\\\n", ""))]


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the command of a call, and the words after it."""
    names = [" ".join(words[:count]) for count in (2, 1)]
    name = next(each for each in names if each in COMMANDS)
    return name, words[len(name.split()) :]


def test_each_command_has_examples_in_its_help() -> None:
    assert set(EXAMPLES) == {"", *COMMANDS}
    for command in EXAMPLES:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="jobgateway").stdout
        lines = EXAMPLES[command].strip().splitlines()
        assert shown.endswith("".join(f"{line}\n" for line in ["Examples:", *(f"  {each}" for each in lines)]))
        # A line that the terminal breaks cannot be copied.
        assert max(map(len, lines)) <= 78


@pytest.mark.parametrize(("command", "lines"), list(examples()))
def test_an_example_can_be_parsed(command: str, lines: str) -> None:
    found = [command_of(each) for each in calls(lines)]
    # That of a group shows its commands.
    assert not command or any(f"{name} ".startswith(f"{command} ") for name, _ in found)
    for name, words in found:
        uid = ["1000001" if each == "$uid" else each for each in words]
        COMMANDS[name].click.make_context(name, uid, parent=COMMANDS[name].context.parent)


@pytest.fixture(scope="module")
def environment(target: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell beside a gateway whose simulator has the jobs of the examples."""
    with Client(target, token=DEMO_TOKEN) as client:
        for _ in range(2):
            client.send(pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=b'{"duration": 0}'))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    path = f"{BIN}:{os.environ['PATH']}"
    kept["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    return kept | {"JOBGATEWAY_TARGET": target, "JOBGATEWAY_TOKEN": DEMO_TOKEN, "PATH": path}


@pytest.mark.slow
@pytest.mark.parametrize("lines", [lines for _, lines in examples() if not NOT_RUN.search(lines)])
def test_an_example_runs_as_it_stands(lines: str, environment: dict[str, str], tmp_path: Path) -> None:
    script = ["bash", "-e", "-c", lines]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
