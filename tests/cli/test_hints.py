"""The commands in messages: they can be parsed, and those about a job run as they stand."""

from __future__ import annotations

import ast
import os
import pty
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client
from jobgateway_client.deadline import Deadline
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.client.session import Session, repeated_options
from gateway.cli.options import contexts
from gateway.cli.options.contexts import Strength
from gateway.cli.options.shared import DEMO_TOKEN, CallOptions
from tests.cli.test_commands import start
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP: Any = typer.main.get_command(app)
CONTEXT = typer.Context(GROUP, info_name="jobgateway")
TESTED_ELSEWHERE = {"cli/commands/completion.py", "cli/parsing/examples.py"}
# In the place of an expression in an f-string.
VALUE = "1000001"


def texts() -> Iterator[tuple[str, str]]:
    """Yield each text of the gateway that has a command, with its module."""
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            words = [each.value if isinstance(each, ast.Constant) else VALUE for each in parts]
            if all(isinstance(each, str) for each in words) and "jobgateway " in (text := "".join(map(str, words))):
                yield str(path.relative_to(ROOT / "gateway")), text


def hints(text: str) -> list[str]:
    """Return the words after `jobgateway` in each command of a text."""
    return re.findall(r"\bjobgateway ([a-z_]+[^\n`|)>;]*)", text)


def test_a_text_names_no_command_with_a_placeholder() -> None:
    commands = GROUP.commands.keys()
    found = [(module, hint) for module, text in texts() if module not in TESTED_ELSEWHERE for hint in hints(text)]
    assert len(found) > 5
    for module, hint in found:
        assert re.findall(r"^[a-z_]+", hint)[0] in commands, f"{module}: {hint}"
        assert not re.search(r"(?<![\w-])[A-Z]{2,}\b", hint), f"{module}: {hint}"


def test_a_hint_connects_as_its_command_did(tmp_path: Path) -> None:
    files = [tmp_path / f"with space {name}" for name in ("token", "ca", "cert", "key")]
    for each in files:
        each.touch()
    token, ca, cert, key = files
    call = CallOptions(
        target="[::1]:5",
        token_file=token,
        tls=True,
        ca_file=ca,
        cert_file=cert,
        key_file=key,
        sources=dict.fromkeys(contexts.KEYS, Strength.OPTION),
    )
    with Client(call.target) as client:
        session = Session(client, call.target, Deadline(None), connection=repeated_options(call))
        hint = session.save_command(5)
    program, name, *words = shlex.split(hint)
    parsed = GROUP.commands[name].make_context(name, words, parent=CONTEXT).params
    assert program == "jobgateway"
    assert parsed["uids"] == [5]
    given = {"target", "token_file", "tls", "ca_file", "cert_file", "key_file"}
    assert {name: parsed[name] for name in given} == {name: getattr(call, name) for name in given}


def sent(target: str, parameters: bytes) -> int:
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", params_json=parameters)
    with Client(target, token=DEMO_TOKEN) as client:
        uid = client.send(request).uid
        if b"result_bytes" in parameters:
            client.watch(uid).finish()
    return int(uid)


def follow(hint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command from a message, without the target in the environment."""
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, shlex.split(hint), env={"JOBGATEWAY_TOKEN": DEMO_TOKEN}, prog_name="jobgateway")
    assert done.exit_code == 0, done.stderr


def test_the_hint_of_a_short_command_runs(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["get", str(sent(target, b'{"duration": 1}')), "--target", target]
    done = CliRunner().invoke(app, call, env={"JOBGATEWAY_TOKEN": DEMO_TOKEN}, prog_name="jobgateway")
    (hint,) = hints(done.stderr)
    follow(hint, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["get", "watch"])
def test_the_hint_about_a_large_result_runs(
    target: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = sent(target, b'{"duration": 0, "result_bytes": 100000}')
    master, slave = pty.openpty()
    with start(command, str(uid), "--target", target, stdout=slave) as process:
        os.close(slave)
        _, errors = process.communicate()
    os.close(master)
    (hint,) = hints(errors)
    follow(hint, tmp_path, monkeypatch)
    assert (tmp_path / f"job-{uid}.json").stat().st_size >= 100_000
