"""The input of a job, the token, and foreign texts: everything that needs no gateway."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import FieldViolation, GatewayError
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.client.credentials import TokenUnusable, read_token
from gateway.cli.display.job_lines import job_line
from gateway.cli.failures.error_messages import error_lines
from gateway.cli.options.params import ParamsInvalid, read_params
from gateway.cli.options.shared import Output, OutputOptions, QuickCallOptions, Uid, expanded
from gateway.cli.output.formatting import clean, pretty_json

RUN = ["run", "--workspace", "1", "--entity", "7", "--target", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("pairs", "document"),
    [
        (["a=1"], '{"a": 1}'),
        (["a=9007199254740993", "b=1.10", "c=1e400"], '{"a": 9007199254740993, "b": 1.10, "c": 1e400}'),
        (["a=true", "b=null", 'c={"d": [1]}', 'e="1"'], '{"a": true, "b": null, "c": {"d": [1]}, "e": "1"}'),
        (["a=beam", "b=NaN", "c=", "d=x=y"], '{"a": "beam", "b": "NaN", "c": "", "d": "x=y"}'),
        (['quo"te=ä'], '{"quo\\"te": "ä"}'),
        (["a=" + "1" * 5000], '{"a": ' + "1" * 5000 + "}"),
    ],
)
def test_pairs_become_an_object_without_a_number_being_changed(pairs: list[str], document: str) -> None:
    assert read_params(pairs, None, None) == document.encode()


def test_a_file_and_standard_input_arrive_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = b' {"a" : 1.0,\n "big": 9007199254740993} \n'
    file = tmp_path / "params.json"
    file.write_bytes(document)
    assert read_params([], None, file) == document
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document)))
    assert read_params([], None, Path("-")) == document


def test_no_input_is_not_an_empty_one() -> None:
    assert read_params([], None, None) is None


def test_a_byte_order_mark_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = b'\xef\xbb\xbf{"a": 1}'
    file = tmp_path / "params.json"
    file.write_bytes(document)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document)))
    assert read_params([], None, file) == read_params([], None, Path("-")) == b'{"a": 1}'


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"", " is empty; give a JSON value, or leave the option out"),
        (b"\xef\xbb\xbf\n", " is empty; give a JSON value, or leave the option out"),
        ('{"a": 1}'.encode("utf-16"), " is in UTF-16; save it in UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), " is in UTF-16; save it in UTF-8"),
        ('{"a": 1}'.encode("utf-32"), " is in UTF-32; save it in UTF-8"),
        (b'{"a": "\xff"}', ": it is not UTF-8 (byte 7)"),
        (b'{"a": 1,\n "b": }', ": it is not JSON: Expecting value (line 2, column 7)"),
        (b'{"a": NaN}', ": NaN is not a JSON value"),
        (b'{"a": 1, "a": 2}', ": an object has the key 'a' twice"),
        (b"[" * 100_000 + b"]" * 100_000, ": it is nested more than 500 levels deep"),
    ],
)
@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_file_that_is_not_json_is_named_with_its_mistake(
    contents: bytes, said: str, from_stdin: bool, tmp_path: Path
) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(contents)
    given = "-" if from_stdin else str(file)
    result = CliRunner().invoke(
        app, [*RUN, "--params-file", given], input=contents if from_stdin else None, env={"JOBGATEWAY_TOKEN": "t"}
    )
    assert (result.exit_code, result.stderr) == (2, f"--params-file {given}{said}\n")


def test_a_file_that_cannot_be_read_is_a_line(tmp_path: Path) -> None:
    for file, said in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(ParamsInvalid) as raised:
            read_params([], None, file)
        problem = f"--params-file {file} cannot be read: {said}"
        assert str(raised.value) == f"{problem}; check the path and its permissions"


def test_a_device_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open(encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        for file in ("/dev/zero", "-"):
            with pytest.raises(ParamsInvalid, match=f"--params-file {file}: it has more than 67,108,864 bytes"):
                read_params([], None, Path(file))


def test_a_member_with_a_key_twice_is_refused() -> None:
    with pytest.raises(ParamsInvalid, match="--param: an object has the key 'b' twice"):
        read_params(['a={"b": 1, "b": 2}'], None, None)


@pytest.mark.parametrize(
    ("pairs", "text", "file", "said"),
    [
        (["a=1"], "{}", None, "in one way only"),
        ([], "{}", "params.json", "in one way only"),
        (["a"], None, None, "is not KEY=VALUE"),
        (["=1"], None, None, "is not KEY=VALUE"),
        (["a=1", "a=2"], None, None, "is given twice"),
        ([], "{", None, "--params: it is not JSON"),
        ([], "", None, "--params is empty"),
        ([], '{"a": NaN}', None, "NaN is not a JSON value"),
        ([], "{\udcff}", None, "--params: it is not UTF-8"),
        ([], None, "/nowhere/params.json", "cannot be read: No such file"),
    ],
)
def test_an_input_that_cannot_be_sent_is_refused(
    pairs: list[str], text: str | None, file: str | None, said: str
) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        read_params(pairs, text, Path(file) if file else None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params", "{"], "--params: it is not JSON"),
        (["--param", "a=1", "--params", "{}"], "in one way only"),
        (["--save", "/nowhere/result.json"], "/nowhere is not a folder"),
        (["--save", "/"], "--save / is a folder; name a file"),
        (["--save", "-"], "--save is for a file; leave it out"),
        (["--output", "my result.json"], "to write the result: --save 'my result.json'"),
        (["--output", "-"], "to print the result: leave it out"),
        (["--json"], "No such option: --json; write --output json, or -o json"),
        (["--jso"], "see jobgateway run --help"),
        (["--request-id", "\udcff"], "not UTF-8"),
        (["--entity", str(2**63)], "9223372036854775808 must be from 1 to 9223372036854775807"),
    ],
)
def test_wrong_usage_is_a_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, [*RUN, *arguments], env={"JOBGATEWAY_TOKEN": "t"})
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_cannot_be_written_is_named_early(tmp_path: Path) -> None:
    # Not even root can write to a running program.
    program = Path(shutil.copy(str(shutil.which("sleep")), tmp_path))
    before = program.read_bytes()
    with subprocess.Popen([program, "60"]) as running:  # noqa: S603 - a copy of a program of the system
        try:
            result = CliRunner().invoke(app, [*RUN, "--save", str(program)], env={"JOBGATEWAY_TOKEN": "t"})
        finally:
            running.kill()
    assert result.exit_code == 2
    assert result.stderr == f"--save {program} cannot be written: Text file busy; name another file\n"
    assert program.read_bytes() == before


def test_each_command_takes_its_groups_of_options_flat() -> None:
    given: list[object] = []

    def command(uid: Uid, call: QuickCallOptions, shown: OutputOptions) -> None:
        given.extend((uid, call, shown))

    app = typer.Typer()
    app.command()(expanded(command))
    result = CliRunner().invoke(app, ["7", "--output", "json", "--save", "file", "--target", "there:1"])
    assert result.exit_code == 0, result.output
    output = OutputOptions(output=Output.JSON, save=Path("file"))
    assert given == [7, QuickCallOptions(target="there:1", deadline=60.0), output]


@pytest.mark.parametrize("arguments", [["run"], ["watch", "0"], ["get", "x"], ["nothing"], [*RUN, "--timeout", "0"]])
def test_arguments_that_typer_rejects_are_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments, env={"JOBGATEWAY_TOKEN": "t"}).exit_code == 2


def test_the_token_of_the_file_wins_and_loses_its_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    monkeypatch.setenv("JOBGATEWAY_TOKEN", "from-the-environment")
    assert read_token(file) == "from-the-file"
    assert read_token(None) == "from-the-environment"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"secret word", "a space"),
        (b"secret\nword", "a space"),
        (b"\xff", "ASCII"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(TokenUnusable, match=said) as caught:
        read_token(file)
    assert "secret" not in str(caught.value)


def test_without_a_token_nothing_is_called(tmp_path: Path) -> None:
    for options in ([], ["--token-file", str(tmp_path / "none")]):
        result = CliRunner().invoke(app, [*RUN, *options], env={"JOBGATEWAY_TOKEN": ""})
        assert result.exit_code == 6
        assert "token" in result.stderr


def test_there_is_no_option_for_the_token() -> None:
    result = CliRunner().invoke(app, [*RUN, "--token", "secret"], env={"JOBGATEWAY_TOKEN": "t"})
    assert result.exit_code == 2


def test_an_unreachable_gateway_is_one_line_and_code_8() -> None:
    for arguments in (RUN, ["watch", "42", "--target", "127.0.0.1:1"], ["get", "42", "--target", "127.0.0.1:1"]):
        result = CliRunner().invoke(app, arguments, env={"JOBGATEWAY_TOKEN": "secret"})
        assert result.exit_code == 8
        assert result.stderr.startswith(
            "127.0.0.1:1 cannot be reached (Connection refused); check that the gateway runs there"
        )
        assert result.stderr.count("\n") == 1
        assert "secret" not in result.stderr


def test_fields_lose_the_path_around_the_request() -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    fields = (FieldViolation("request.a", "no"), FieldViolation("request", "nor"), FieldViolation("", "none"))
    ours = GatewayError(invalid, "request.a: no", reason="REQUEST_INVALID", fields=fields)
    assert error_lines(ours, "t") == [
        "a: no [INVALID_ARGUMENT, REQUEST_INVALID]",
        "  request: nor",
        "  (request): none",
    ]
    theirs = GatewayError(
        invalid, "it refused: well; request.a: no; b: c", reason="UPSTREAM_BAD_REQUEST", fields=fields
    )
    assert error_lines(theirs, "t")[0] == "it refused: well: request.a: no [INVALID_ARGUMENT, UPSTREAM_BAD_REQUEST]"


def test_advice_is_given_once() -> None:
    message = "request_id: no room; send without one, or retry later"
    full = GatewayError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason="REQUEST_IDS_EXHAUSTED", retry_delay=60.0)
    assert error_lines(full, "t") == [
        "request_id: no room; send without one, or try again in 60 s [RESOURCE_EXHAUSTED, REQUEST_IDS_EXHAUSTED]"
    ]
    message = "the upstream does not show the job yet, which may be temporary; call again"
    early = GatewayError(grpc.StatusCode.UNAVAILABLE, message, reason="NO_STATE_YET")
    assert error_lines(early, "t") == [
        "the upstream does not show the job yet, which may be temporary; try again later [UNAVAILABLE, NO_STATE_YET]"
    ]
    message = "request_id: already used for another request; use a new one"
    used = GatewayError(grpc.StatusCode.INVALID_ARGUMENT, message, reason="REQUEST_ID_REUSED")
    assert error_lines(used, "t") == [f"{message} [INVALID_ARGUMENT, REQUEST_ID_REUSED]"]


def test_an_unknown_outcome_names_the_option() -> None:
    message = "it is unknown whether the job runs; with a request_id, send the same request again: lost"
    unknown = GatewayError(grpc.StatusCode.UNKNOWN, message, reason="SUBMIT_OUTCOME_UNKNOWN")
    expected = f"{message.replace('request_id', '--request-id')} [UNKNOWN, SUBMIT_OUTCOME_UNKNOWN]"
    assert error_lines(unknown, "t") == [expected]


def test_a_request_that_is_too_large_for_grpc_made_no_job() -> None:
    message = "SERVER: Received message larger than max (73400337 vs. 67108864)"
    assert not GatewayError(grpc.StatusCode.RESOURCE_EXHAUSTED, message).may_have_arrived
    assert GatewayError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded").may_have_arrived


def test_a_foreign_text_is_one_harmless_line() -> None:
    assert clean("a\x1b[31m\x9b\x07\x7f\nb\tc\u2028d\u202e") == "a\ufffd[31m\ufffd\ufffd\ufffd b c d\ufffd"
    assert clean("\u061c\ud800") == "\ufffd\ufffd"
    assert "\x9b" not in pretty_json(b'{"a": "\\u009b\\u001b", "b": [1]}')


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (pb.Job(uid=1), "job 1 state unknown"),
        (pb.Job(uid=1, status=pb.JOB_STATUS_RUNNING), "job 1 running"),
        (pb.Job(uid=1, status_text="weird", done=True), "job 1 weird"),
        (pb.Job(uid=1, status=pb.JOB_STATUS_TIMEOUT, done=True), "job 1 timeout"),
        (
            pb.Job(uid=1, status=pb.JOB_STATUS_RUNNING, progress=pb.Progress(percentage=float("nan"), message="m")),
            "job 1 running 0%: m",
        ),
        (
            pb.Job(uid=1, status=pb.JOB_STATUS_ERROR, done=True, error=pb.JobError(type="error_code", message="no")),
            "job 1 error (error_code): no",
        ),
    ],
)
def test_a_job_is_one_line(job: pb.Job, line: str) -> None:
    assert job_line(job) == line


def test_a_status_of_a_later_version_is_the_upstreams_word() -> None:
    job = pb.Job(uid=1, status_text="paused")
    job.MergeFromString(b"\x10\x63")  # status 99
    assert job_line(job) == "job 1 paused"
