"""Commands whose output nobody takes, whose standard streams are closed, or that are interrupted early."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from gateway.cli.options.shared import DEMO_TOKEN as TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

JOB = ["--workspace", "1", "--entity", "1", "--method", "succeed", "--param", "duration=0.1"]
COMMAND = [sys.executable, "-m", "gateway"]
DOCTOR = ["doctor", "--hold", "0"]
SERVE_CHECK = ["serve", "--check", "--upstream-url", "http://127.0.0.1:1"]
SERVE_CHECK += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
# A command that gets Ctrl-C when it imports a module.
INTERRUPTED = """
import os, signal, sys

class Importing:
    @staticmethod
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Importing)
from gateway.__main__ import main
main()
"""


class Outcome(NamedTuple):
    code: int
    err: str


def environment(target: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    return kept | {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": target}


def shell(target: str, redirected: str, *arguments: str, command: Sequence[str] = COMMAND) -> Outcome:
    """Run a command with some of its streams `redirected`."""
    done = subprocess.run(  # noqa: S603 - our own command
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command, *arguments],  # noqa: S607 - any shell
        env=environment(target),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return Outcome(done.returncode, done.stderr)


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", "<&- >&-"])
# A job that was only sent has no result to lose.
@pytest.mark.parametrize(
    ("command", "output"), [("run", "text"), *itertools.product(["send", "run"], ["json", "name"])]
)
def test_a_job_that_was_sent_is_named_though_the_output_is_lost(
    target: str, redirected: str, command: str, output: str
) -> None:
    code, err = shell(target, redirected, command, *JOB, "-o", output)
    assert code == 4
    assert re.search(
        r"standard output cannot be written: [A-Z][a-z ]+; job \d+ was sent; watch it: .+ watch \d+ --target .+\n$", err
    )


def test_a_result_that_cannot_be_written_names_the_job(target: str) -> None:
    for options, redirected in (([], ">/dev/full"), (["--save", "/dev/full"], "")):
        code, err = shell(target, redirected, "run", *JOB, *options)
        assert code == 4
        assert re.search(r"cannot be written: No space left on device; job \d+ was sent; watch it: ", err)


def test_a_result_file_is_written_if_the_output_is_lost(target: str, tmp_path: Path) -> None:
    code, err = shell(target, ">/dev/full", "run", *JOB, "-o", "json", "--save", str(tmp_path / "result"))
    assert code == 4
    assert "job" in err
    assert (tmp_path / "result").read_bytes() == b'{"data":{"sum":3}}'


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["get", "wait", "cancel", "watch"])
@pytest.mark.parametrize("output", ["json", "name"])
def test_other_commands_tell_that_their_output_is_lost(target: str, command: str, output: str, redirected: str) -> None:
    _, err = shell(target, ">&2", "send", *JOB, "-o", "json")
    uid = str(re.findall(r'"uid": "(\d+)"', err)[0])
    code, err = shell(target, redirected, command, uid, "-o", output)
    assert code == 4
    assert "standard output cannot be written: " in err


@pytest.mark.parametrize("command", ["send", "run"])
def test_the_job_is_reported_if_the_reader_of_stdout_left(target: str, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [*COMMAND, command, *JOB, "-o", "name"],
            env=environment(target),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert re.search(r"standard output cannot be written: Broken pipe; job \d+ was sent; .+\n$", done.stderr)


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- 2>&-"])
@pytest.mark.parametrize("options", [[], ["-o", "name"], ["-o", "json"]])
def test_a_standard_error_that_takes_nothing_changes_nothing(target: str, redirected: str, options: list[str]) -> None:
    assert shell(target, redirected, "run", *JOB, *options).code == 0
    assert shell(target, redirected, "get", "1").code == 7


def test_a_progress_bar_on_a_terminal_that_is_gone_ends_nothing(target: str) -> None:
    ours, theirs = pty.openpty()
    with (
        subprocess.Popen(  # noqa: S603 - our own command
            [*COMMAND, "run", *JOB[:-1], "duration=2"],
            env=environment(target),
            stdout=subprocess.PIPE,
            stderr=theirs,
        ) as process
    ):
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, b'{"data":{"sum":3}}')


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["send", "--help"],
        ["serve", "--help"],
        SERVE_CHECK,
        DOCTOR,
        [*DOCTOR, "-o", "json"],
        ["demo"],
        *([each, "--listen", "127.0.0.1:0"] for each in ("dev", "simulate")),
    ],
)
def test_commands_without_a_job_tell_that_their_output_is_lost(target: str, arguments: list[str]) -> None:
    assert shell(target, ">/dev/full", *arguments) == (
        4,
        "standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    "module", ["gateway.cli.app", "typer", "grpc", "gateway.cli.output.terminal", "jobgateway.v1.job_service_pb2"]
)
@pytest.mark.parametrize("arguments", [["send", *JOB], ["demo"]])
def test_ctrl_c_during_the_imports_leaves_without_a_traceback(target: str, module: str, arguments: list[str]) -> None:
    command = [sys.executable, "-c", INTERRUPTED.format(module=module)]
    assert shell(target, "", *arguments, command=command) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(SERVE_CHECK, 0), (["serve", "--check", "--max-calls", "0"], 2), (["ping", "-o", "json"], 0)],
)
def test_a_full_standard_error_changes_no_exit_code(target: str, arguments: list[str], code: int) -> None:
    assert shell(target, "<&- 2>/dev/full", *arguments).code == code


def started(target: str, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *arguments], env=environment(target), stdout=subprocess.PIPE, stderr=stderr, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_job_was_sent_names_it(target: str, number: signal.Signals) -> None:
    with started(target, "run", *JOB[:-1], "duration=60") as process:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert re.fullmatch(r"interrupted; job \d+ continues, watch it again: .+", err.splitlines()[-1])


def test_a_signal_cancels_the_job_if_it_should(target: str) -> None:
    with started(target, "run", *JOB[:-1], "duration=60", "--cancel-on-interrupt") as process:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert re.search(r"asked to cancel; state: job \d+ cancelled", err)


def test_a_signal_leaves_the_terminal_as_it_was(target: str) -> None:
    ours, theirs = pty.openpty()
    with started(target, "run", *JOB[:-1], "duration=60", stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"running" not in shown:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the end of the terminal
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    assert process.returncode == 143
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is shown again"


def test_nohup_keeps_a_command_running(target: str) -> None:
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *COMMAND, "run", *JOB[:-1], "duration=2"]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env=environment(target), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
