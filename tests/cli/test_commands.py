"""The command line against a real gateway before the real simulator, as processes over real sockets."""

import gc
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import structlog
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.options.shared import DEMO_TOKEN as TOKEN
from gateway.cli.servers.demo_servers import DemoServers
from gateway.simulator import METHODS

JOB = ["--workspace", "1", "--entity", "1"]


class Place(NamedTuple):
    upstream: str
    target: str


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # The servers run in this process, and their log would be mixed into the output of the commands.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with DemoServers() as servers:
        yield Place(servers.upstream, servers.gateway)
    structlog.reset_defaults()


@contextmanager
def start(
    *arguments: str,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    terminal: int | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and kill it if a test fails. `terminal` is the one that sends it Ctrl-C, and all its streams."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*([] if terminal is None else ["setsid", "--ctty"]), sys.executable, "-m", "gateway", *arguments],
        stdin=subprocess.PIPE if terminal is None else terminal,
        stdout=stdout if terminal is None else terminal,
        stderr=stderr if terminal is None else terminal,
        env=environment | {"JOBGATEWAY_TOKEN": TOKEN, **variables},
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def jobgateway(*arguments: str, **variables: str) -> Outcome:
    with start(*arguments, variables=variables) as process:
        out, err = process.communicate()
    assert "Traceback" not in err
    assert TOKEN not in out + err
    return Outcome(process.returncode, out, err)


def client(place: Place, *arguments: str, stdin: str | None = None) -> Outcome:
    """Run a command in this process, which is quicker, where neither signals nor a terminal matter."""
    variables = {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_TARGET": place.target}
    result = CliRunner().invoke(app, [*arguments], input=stdin, env=variables, catch_exceptions=False)
    assert TOKEN not in result.output
    return Outcome(result.exit_code, result.stdout, result.stderr)


def send(place: Place, method: str, *options: str) -> int:
    outcome = client(place, "send", *JOB, "--method", method, *options, "-o", "json")
    assert outcome.code == 0, outcome.err
    return int(json.loads(outcome.out)["uid"])


def test_a_run_that_succeeds_is_a_line_per_event_and_the_result(place: Place) -> None:
    options = ["--method", "succeed", "--param", "duration=0.6", "--param", "steps=2", "--target", place.target]
    outcome = jobgateway("run", *JOB, *options)
    lines = outcome.err.splitlines()
    assert outcome.code == 0, outcome.err
    assert re.fullmatch(r"job \d+ running.*", lines[0])
    assert any(re.fullmatch(r"job \d+ running 50%: Step 2 of 2", line) for line in lines), lines
    assert re.fullmatch(r"job \d+ succeeded", lines[-1])
    assert outcome.out == '{"data":{"sum":3}}'


@pytest.mark.slow
def test_a_run_whose_job_failed_is_exit_code_1(place: Place) -> None:
    options = ["--method", "fail", "--param", "duration=0", "--target", place.target]
    outcome = jobgateway("run", *JOB, *options)
    assert outcome.code == 1
    assert outcome.out == ""
    assert re.search(r"job \d+ failed \(error_code\): .+", outcome.err)


def test_an_error_for_the_user_names_the_fields(place: Place) -> None:
    outcome = client(place, "run", *JOB, "--method", "user_error", "--param", "duration=0")
    assert (outcome.code, outcome.out) == (1, "")
    assert "invalid fields:\n  width: Must be larger than 0.\n" in outcome.err


@pytest.mark.slow
def test_a_refused_run_is_exit_code_5_with_the_fields(place: Place) -> None:
    outcome = jobgateway("run", *JOB, "--method", "refuse", "--target", place.target)
    assert (outcome.code, outcome.out) == (5, "")
    assert outcome.err.splitlines() == [
        "the upstream rejected the request (HTTP 400): non_field_errors: The job is refused "
        "[INVALID_ARGUMENT, UPSTREAM_BAD_REQUEST]",
        "  method_name: This value is not accepted.",
        "  params.beam.length: Must be larger than 0.",
        "  params.non_field_errors: The load is missing.",
    ]


@pytest.mark.parametrize("command", ["run", "send"])
@pytest.mark.parametrize(
    ("options", "field"), [(["--workspace", "../1"], "workspace_id"), (["--request-id", "ä"], "request_id")]
)
def test_an_invalid_request_is_one_line_with_the_field(
    place: Place, command: str, options: list[str], field: str
) -> None:
    outcome = client(place, command, *JOB, *options)
    assert (outcome.code, outcome.out) == (5, "")
    assert re.fullmatch(rf"{field}: must .+ \[INVALID_ARGUMENT, REQUEST_INVALID\]\n", outcome.err)


def test_an_input_that_is_too_large_is_one_line(place: Place) -> None:
    outcome = client(place, "run", *JOB, "--params-file", "-", stdin=json.dumps("x" * (8 << 20)))
    assert outcome.code == 5
    assert re.fullmatch(r"params_json .+; make it smaller \[RESOURCE_EXHAUSTED, REQUEST_TOO_LARGE\]\n", outcome.err)


def test_json_is_an_object_per_event_up_to_the_end(place: Place) -> None:
    outcome = client(place, "run", *JOB, "--param", "duration=0.3", "-o", "json")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0
    assert [event["job"].get("done", False) for event in events] == [False] * (len(events) - 1) + [True]
    assert outcome.out.endswith(', "result": {"data":{"sum":3}}}\n')
    assert events[-1]["job"]["content_size"] == "18"


def test_a_job_is_sent_read_waited_for_watched_and_cancelled(place: Place) -> None:
    uid = str(send(place, "never"))
    shown = client(place, "get", uid)
    assert shown.code == 0
    assert f"job {uid} running" in shown.err
    assert f"jobgateway watch {uid} --target {place.target}" in shown.err
    assert client(place, "wait", uid, "--timeout", "0").code == 124
    assert client(place, "cancel", uid).code == 0
    for command in ("get", "wait", "watch"):
        assert client(place, command, uid) == (1, "", f"job {uid} cancelled\n")


def test_an_unknown_job_is_exit_code_7_and_says_what_to_do(place: Place) -> None:
    outcome = client(place, "get", "999999999")
    assert outcome.code == 7
    assert "check the ids" in outcome.err
    assert "NOT_FOUND" in outcome.err


@pytest.mark.slow
def test_a_wrong_token_is_exit_code_6(place: Place) -> None:
    outcome = jobgateway("get", "1", "--target", place.target, JOBGATEWAY_TOKEN="wrong-token")
    assert outcome.code == 6
    assert "JOBGATEWAY_TOKEN" in outcome.err
    assert "wrong-token" not in outcome.err


@pytest.mark.parametrize("way", ["stdin", "file", "text"])
def test_a_large_integer_arrives_and_comes_back_unharmed(place: Place, way: str, tmp_path: Path) -> None:
    result = '{"id":  18446744073709551617, "price": 1.10}'
    params = f'{{"duration": 0, "result": {result}}}'
    file = tmp_path / "params.json"
    file.write_text(params)
    given = {"stdin": ["--params-file", "-"], "file": ["--params-file", str(file)], "text": ["--params", params]}
    outcome = client(place, "run", *JOB, *given[way], stdin=params if way == "stdin" else None)
    assert outcome.code == 0, outcome.err
    assert outcome.out == result


@pytest.mark.parametrize("command", ["run", "send", "get"])
def test_a_result_larger_than_a_message_goes_into_a_file(place: Place, command: str, tmp_path: Path) -> None:
    size = 5_000_000
    options = ["--param", "duration=0", "--param", f"result_bytes={size}"]
    file = tmp_path / "result.json"
    if command in ("run", "send"):
        arguments = [command, *JOB, *options, "--poll-result"]
    else:
        uid = send(place, "succeed", *options)
        assert client(place, "wait", str(uid)).code == 0
        arguments = [command, str(uid)]
    outcome = client(place, *arguments, "--save", str(file))
    assert outcome.code == 0, outcome.err
    assert file.stat().st_size == size
    assert json.loads(file.read_bytes())["data"] == {"sum": 3}
    assert f"result: {size:,} bytes in {file}" in outcome.err


@pytest.mark.parametrize("command", ["run", "send", "get", "wait", "watch"])
def test_a_pipe_gets_the_result_and_nothing_else(place: Place, command: str) -> None:
    result = '{"price":  1.10, "id": 18446744073709551617}'
    options = ["--param", "duration=0", "--param", f"result={result}"]
    if command in ("run", "send"):
        arguments = [command, *JOB, *options, "--poll-result"]
    else:
        arguments = [command, str(send(place, "succeed", *options, "--poll-result"))]
    outcome = client(place, *arguments)
    assert (outcome.code, outcome.out) == (0, result)
    assert re.search(r"job \d+ succeeded\n", outcome.err)


def test_a_large_result_comes_in_full_through_a_pipe(place: Place) -> None:
    outcome = client(place, "run", *JOB, "--param", "duration=0", "--param", "result_bytes=5000000")
    assert outcome.code == 0
    assert len(outcome.out) == 5_000_000


@pytest.mark.slow
def test_a_terminal_is_told_how_to_get_a_large_result(place: Place) -> None:
    uid = str(send(place, "succeed", "--param", "duration=0", "--param", "result_bytes=5000000"))
    assert client(place, "wait", uid, "-o", "name").code == 0
    master, slave = pty.openpty()
    with start("get", uid, stdout=slave, variables={"JOBGATEWAY_TARGET": place.target}) as process:
        os.close(slave)
        _, err = process.communicate()
    os.close(master)
    assert process.returncode == 0
    assert f"jobgateway watch {uid} --target {place.target} --save job-{uid}.json\n" in err


def test_several_jobs_are_watched_on_one_stream(place: Place) -> None:
    uids = [send(place, "succeed", "--param", "duration=0.1"), send(place, "fail", "--param", "duration=0.1"), 999]
    outcome = client(place, "watch", *map(str, uids))
    assert outcome.code == 7
    assert f"job {uids[0]} succeeded\n" in outcome.out
    assert f"job {uids[1]} failed" in outcome.out
    assert outcome.out.endswith("3 jobs: 1 succeeded, 1 failed, 1 unknown\n")
    assert re.match(r"job 999: .*; check the ids.* \[NOT_FOUND, UPSTREAM_NOT_FOUND\]\n", outcome.err), outcome.err


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar_and_the_end(place: Place) -> None:
    master, slave = pty.openpty()
    options = ["--param", "duration=1", "--param", 'messages=["\\u001b[2Jmixing"]', "--param", "percentages=[42]"]
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", "JOBGATEWAY_TARGET": place.target}
    with start("run", *JOB, *options, stdout=slave, stderr=slave, variables=terminal) as process:
        os.close(slave)
        shown = read_terminal(master)
        assert process.wait() == 0
    assert re.search(r"job \d+ \x1b\[0m\ufffd\[2Jmixing", shown)
    assert "42%" in shown
    assert "━" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again"
    assert re.search(r"job \d+ succeeded in \d\.\d s", shown)
    assert '"sum"' in shown


@pytest.mark.slow
@pytest.mark.parametrize(("output", "start_of"), [([], '"a"'), (["-o", "json"], '"result"')])
def test_a_terminal_gets_a_result_that_cannot_take_hold_of_it(place: Place, output: list[str], start_of: str) -> None:
    master, slave = pty.openpty()
    options = ["--param", "duration=0", "--param", 'result={"a": "\x9b2J \\u001b[2J \\ud800"}', *output]
    terminal = {"TERM": "xterm-256color", "JOBGATEWAY_TARGET": place.target}
    with start("run", *JOB, *options, stdout=slave, variables=terminal) as process:
        os.close(slave)
        shown = read_terminal(master)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert start_of in shown
    assert "\x9b" not in shown
    assert "\\u001b[2J" in shown


@pytest.mark.slow
def test_a_character_that_the_locale_lacks_is_no_reason_to_end(place: Place) -> None:
    options = ["--method", "fail", "--param", "duration=0", "--param", "error_message=1 €"]
    outcome = jobgateway("run", *JOB, *options, JOBGATEWAY_TARGET=place.target, PYTHONIOENCODING="ascii")
    assert outcome.code == 1
    assert "failed (error_code): 1 \\u20ac\n" in outcome.err


def read_terminal(master: int) -> str:
    """Return what was written to a terminal until its last writer has closed it."""
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # how Linux tells the end
            piece = b""
        if not piece:
            os.close(master)
            return shown.decode()
        shown += piece


@pytest.mark.slow
def test_an_interrupt_leaves_the_job_running(place: Place) -> None:
    with start("run", *JOB, "--method", "never", variables={"JOBGATEWAY_TARGET": place.target}) as process:
        assert process.stderr is not None
        uid = re.findall(r"job (\d+) running", process.stderr.readline())[0]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert f"jobgateway watch {uid} --target {place.target}\n" in err
    with start("watch", uid, "--cancel-on-interrupt", variables={"JOBGATEWAY_TARGET": place.target}) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"job {uid} running")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert f"asked to cancel; state: job {uid} cancelled" in err


def test_the_same_request_id_is_the_same_job(place: Place) -> None:
    options = ["--request-id", "test-cli", "--param", "duration=0"]
    assert send(place, "succeed", *options) == send(place, "succeed", *options)
    command = [*JOB, "--method", "succeed", *options]
    line = "was sent earlier with this --request-id; no second job was created"
    for verb in ("send", "run"):
        assert client(place, verb, *command).err.count(line) == 1
        document = json.loads(client(place, verb, *command, "-o", "json").out.splitlines()[-1])
        assert document["replayed"] is True
    new = client(place, "run", *JOB, "--method", "succeed", "--request-id", "test-cli-new", "-o", "json")
    assert line not in new.err
    assert "replayed" not in new.out
    outcome = client(place, "send", *JOB, "--method", "fail", "--request-id", "test-cli")
    assert outcome.code == 5
    assert (
        "request_id: already used for another request; use a new one [INVALID_ARGUMENT, REQUEST_ID_REUSED]"
        in outcome.err
    )


@pytest.mark.slow
def test_a_run_survives_the_change_of_its_gateway(place: Place) -> None:
    variables = {
        "JOBGATEWAY_UPSTREAM_URL": place.upstream,
        "JOBGATEWAY_LISTEN": "127.0.0.1:0",
        "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
    }
    with start("serve", variables=variables | {"JOBGATEWAY_DRAIN_GRACE_SECONDS": "0.3"}) as first:
        target = serving(first)
        with start("run", *JOB, "--method", "never", "--target", target) as process:
            assert process.stderr is not None
            uid = re.findall(r"job (\d+) running", process.stderr.readline())[0]
            first.send_signal(signal.SIGTERM)
            first.communicate()
            with start("serve", variables=variables | {"JOBGATEWAY_LISTEN": target}) as second:
                assert serving(second) == target
                assert client(place, "cancel", uid).code == 0
                _, err = process.communicate()
                second.send_signal(signal.SIGTERM)
                second.communicate()
    assert process.returncode == 1
    assert "resuming in" in err


def serving(gateway: subprocess.Popen[str]) -> str:
    """Return the address that a gateway logs once it serves."""
    assert gateway.stderr is not None
    return str(re.findall(r"127\.0\.0\.1:\d+", gateway.stderr.readline())[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"JOBGATEWAY_MAX_CALLS": "x", "JOBGATEWAY_POLL_INTERVAL_MIN_SECONDS": "1"},
        {"JOBGATEWAY_TARGET": "127.0.0.1:1", "JOBGATEWAY_TOKEN": "another token", "JOBGATEWAY_NOTHING": "1"},
    ],
)
def test_the_demo_shows_its_jobs_in_any_environment(variables: dict[str, str]) -> None:
    outcome = jobgateway("demo", **variables)
    assert outcome.code == 0, outcome.out + outcome.err
    assert re.search(r"job \d+ running 60%: Step 4 of 5", outcome.err)
    assert re.search(r"job \d+ succeeded", outcome.err)
    assert re.search(r"job \d+ failed \(error_code\)", outcome.err)
    assert "params.beam.length: Must be larger than 0." in outcome.err
    assert "this gateway is shutting down" in outcome.err
    assert '{"data":{"sum":3}}\nexit code 0\n' in outcome.out
    assert re.search(r"50 watchers saw job \d+ succeed, and the upstream was asked [1-9]\d? times?", outcome.out)
    assert re.search(r"SHA-256 of result.json, which is removed now: [0-9a-f]{64}", outcome.out)


@pytest.mark.slow
def test_an_interrupted_demo_leaves_no_job_to_watch() -> None:
    with start("demo") as process:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert err.splitlines()[-1] == "interrupted"


def test_the_servers_of_the_demo_stop_during_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    with DemoServers() as servers:
        servers.restart_gateway(after=60, down=60)
    del servers
    gc.collect()
    assert "destroyed" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_simulator_and_a_gateway_before_it_start_and_stop(number: signal.Signals) -> None:
    with start("simulate", "--listen", "127.0.0.1:0") as simulator:
        assert simulator.stdout is not None
        url = re.findall(r"http://\S+", simulator.stdout.readline())[0]
        variables = {
            "JOBGATEWAY_UPSTREAM_URL": url,
            "JOBGATEWAY_LISTEN": "127.0.0.1:0",
            "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
        }
        with start("serve", variables=variables) as gateway:
            outcome = jobgateway("run", *JOB, "--param", "duration=0", "--target", serving(gateway))
            assert outcome.code == 0, outcome.err
            gateway.send_signal(number)
            gateway.communicate()
            assert gateway.returncode == 0
        simulator.send_signal(number)
        simulator.communicate()
        assert simulator.returncode == 0


@pytest.mark.slow
def test_the_simulator_says_which_methods_it_knows() -> None:
    with start("simulate", "--listen", "127.0.0.1:0") as simulator:
        assert simulator.stdout is not None
        first = simulator.stdout.readline()
        simulator.send_signal(signal.SIGINT)
        rest = simulator.stdout.read()
    assert first.startswith("The simulator listens: http://")
    assert {"succeed", "never", "refuse"} <= set(METHODS)
    assert f"  {', '.join(METHODS)}\n" in rest


@pytest.mark.slow
def test_a_wrong_setting_stops_serve_with_one_line() -> None:
    outcome = jobgateway("serve", JOBGATEWAY_UPSTREAM_URL="http://127.0.0.1:1", JOBGATEWAY_NOTHING="1")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "JOBGATEWAY_NOTHING" in outcome.err


@pytest.mark.slow
def test_an_address_that_is_taken_stops_a_server_with_one_line(place: Place) -> None:
    upstream = re.findall(r"//([^/]+)/", place.upstream)[0]
    outcome = jobgateway("simulate", "--listen", upstream)
    assert outcome == (2, "", f"--listen: {upstream} cannot be bound: Address already in use\n")
    outcome = jobgateway(
        "serve",
        JOBGATEWAY_UPSTREAM_URL=place.upstream,
        JOBGATEWAY_LISTEN=upstream,
        JOBGATEWAY_ADMIN_LISTEN="127.0.0.1:0",
        JOBGATEWAY_LOG_FORMAT="text",
    )
    assert outcome == (2, "", f"JOBGATEWAY_LISTEN: {upstream} cannot be bound: Address already in use\n")
    outcome = jobgateway(
        "serve",
        JOBGATEWAY_UPSTREAM_URL=place.upstream,
        JOBGATEWAY_ADMIN_LISTEN=upstream,
        JOBGATEWAY_LOG_FORMAT="text",
    )
    assert outcome == (2, "", f"JOBGATEWAY_ADMIN_LISTEN: {upstream} cannot be bound: Address already in use\n")


@pytest.mark.slow
@pytest.mark.parametrize("address", ["nowhere", ":1", "127.0.0.1:65536", "nowhere.invalid:1", "a..b:1"])
def test_the_simulator_refuses_an_address_that_is_none(address: str) -> None:
    outcome = jobgateway("simulate", "--listen", address)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"--listen: {address} ")
