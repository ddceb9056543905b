"""Contexts: the config file, the commands that change it, and what other commands take from it."""

import fcntl
import json
import os
import resource
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from gateway.cli.client.credentials import token_given, token_source
from gateway.cli.client.session import repeated_options
from gateway.cli.options import contexts
from gateway.cli.options.context_file import change
from gateway.cli.options.shared import DEFAULT_TARGET, QuickCallOptions, expanded, target_option
from gateway.errors import ConfigError

TOKEN = "vktrpat_secret"

TWO = """# Mine.
current = "production"

[contexts.production]  # the real one
target = "gateway.example.com:443"
tls = true
token_file = "production.token"

# With a simulator.
[contexts.dev]
target = "127.0.0.1:50052"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config file, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [each for each in os.environ if each.startswith("JOBGATEWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "jobgateway").mkdir()
    return tmp_path / "jobgateway" / "config.toml"


def run(*words: str, **variables: str) -> Result:
    result = CliRunner().invoke(app, words, env=variables)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert TOKEN not in result.output
    return result


def config(*words: str) -> str:
    """Run a command of `config` that succeeds, and return its standard output."""
    result = run("config", *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*words: str, **variables: str) -> str:
    """Run a command that is wrong, and return its one line."""
    result = run(*words, **variables)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line


def taken(*words: str, **variables: str) -> QuickCallOptions:
    """Return the options of a command."""
    given: list[QuickCallOptions] = []

    def command(call: QuickCallOptions) -> None:
        given.append(call)

    own = typer.Typer()
    own.command()(expanded(command))
    result = CliRunner().invoke(own, words, env=variables)
    assert result.exit_code == 0, result.output
    return given[0]


def test_a_context_is_created_used_changed_and_removed(file: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    assert config("path") == f"{file}\n"
    assert config("list") == ""
    config("set", "production", "--target", "gateway.example.com:443", "--tls", "--token-file", str(token))
    config("set", "dev", "--target", "127.0.0.1:50052")
    assert taken().target == DEFAULT_TARGET
    config("use", "production")
    assert config("list") == "* production  gateway.example.com:443\n  dev         127.0.0.1:50052\n"
    assert config("list", "-o", "name") == "production\ndev\n"
    assert [json.loads(line)["current"] for line in config("list", "-o", "json").splitlines()] == [True, False]
    call = taken()
    assert (call.target, call.tls, call.token_file) == ("gateway.example.com:443", True, token)
    config("set", "production", "--no-tls")
    config("unset", "production", "--token-file")
    call = taken()
    assert (call.target, call.tls, call.token_file) == ("gateway.example.com:443", False, None)
    config("unset", "production")
    config("unset", "dev")
    assert config("list") == ""
    assert taken().target == DEFAULT_TARGET


def test_two_variables_that_contradict_each_other_are_named(file: Path) -> None:
    file.write_text(TWO)
    given = {"JOBGATEWAY_CONTEXT": "dev", "JOBGATEWAY_TARGET": "there:1"}
    result = run("config", "show", **given)
    assert result.stdout == "target  there:1  variable\n"
    assert result.stderr == "JOBGATEWAY_CONTEXT is not used, because JOBGATEWAY_TARGET is set; unset one of them\n"
    # An option is meant to replace a variable.
    assert run("config", "show", "--target", "there:1", JOBGATEWAY_CONTEXT="dev").stderr == ""
    assert run("config", "show", "--context", "dev", JOBGATEWAY_TARGET="there:1").stderr == ""


def test_comments_and_order_survive_a_change(file: Path) -> None:
    file.write_text(TWO)
    config("set", "dev", "--target", "127.0.0.1:50053")
    config("use", "dev")
    changed = TWO.replace('"production"\n', '"dev"\n').replace(":50052", ":50053")
    assert file.read_text() == changed


def test_the_file_is_private_and_replaced_as_a_whole(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "repository" / "config.toml"
    real.parent.mkdir()
    real.write_text(TWO)
    real.chmod(0o644)
    file.symlink_to(real)
    before = real.stat().st_ino
    config("use", "dev")
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert real.stat().st_ino != before
    assert [each.name for each in real.parent.iterdir()] == ["config.toml"]


def test_the_folder_is_created_for_its_owner_only(file: Path) -> None:
    file.parent.rmdir()
    config("set", "dev", "--target", "127.0.0.1:50052")
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_changes_at_once_lose_nothing(file: Path) -> None:
    names = [f"context-{number}" for number in range(8)]

    def add(name: str) -> None:
        change(lambda document: document.setdefault("contexts", {}).update({name: {"target": "there:1"}}))

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(add, names))
    assert sorted(contexts.read().named) == names


def test_what_is_changed_is_checked_under_the_lock(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def after_another(descriptor: int, operation: int) -> None:
        # Another process had the lock first.
        lock(descriptor, operation)
        file.write_text(TWO.partition("# With")[0])

    monkeypatch.setattr(fcntl, "flock", after_another)
    for words in (["unset", "dev"], ["unset", "dev", "target"], ["use", "dev"], ["set", "dev", "--tls"]):
        file.write_text(TWO)
        expected = "dev is a new context, and" if words[0] == "set" else "there is no context dev; there are production"
        assert refused("config", *words).startswith(expected)


def test_a_change_that_fails_leaves_nothing_behind(file: Path) -> None:
    file.write_text(TWO)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(ConfigError, match="File too large"):
            change(lambda document: document.__setitem__("current", "dev"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == TWO
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_its_owner_protected_is_not_changed(file: Path) -> None:
    file.write_text(TWO)
    file.chmod(0o400)
    assert refused("config", "use", "dev") == f"{file}: is read-only; to change it: chmod u+w {file}"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (TWO, 0o400)


def test_the_removal_of_the_current_context_is_told(file: Path) -> None:
    file.write_text(TWO)
    assert run("config", "unset", "dev").stderr == ""
    expected = "production was the current context, and now there is none; see jobgateway config list\n"
    file.write_text(TWO)
    assert run("config", "unset", "production").stderr == expected


def test_a_right_file_is_parsed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("".join(f'[contexts.c{number}]\ntarget = "x:1"\ntls = true\n' for number in range(80)))
    parse, parsed = tomllib.loads, []

    def counted(text: str) -> dict[str, Any]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    assert len(contexts.read().named) == 80
    assert len(parsed) == 1


def test_a_layout_that_cannot_be_changed_is_left_alone(file: Path) -> None:
    text = '[contexts.dev]\ntarget = "x:1"\n[contexts]\n'
    file.write_text(text)
    expected = f"{file}: cannot be changed in its present layout; change it with an editor"
    assert refused("config", "set", "new", "--target", "x:1") == expected
    assert file.read_text() == text


def test_without_options_the_current_context_applies(file: Path) -> None:
    file.write_text(TWO)
    call = taken()
    assert (call.target, call.tls) == ("gateway.example.com:443", True)
    # A relative path is relative to the file.
    assert call.token_file == file.parent / "production.token"


def test_a_path_may_begin_with_the_home_directory(file: Path, tmp_path: Path) -> None:
    file.write_text(TWO.replace("production.token", "~/production.token"))
    assert taken().token_file == tmp_path / "home" / "production.token"


PRODUCTION, DEV = "gateway.example.com:443", "127.0.0.1:50052"


@pytest.mark.parametrize(
    ("words", "variables", "target", "has_token_file"),
    [
        ([], {}, PRODUCTION, True),
        ([], {"JOBGATEWAY_CONTEXT": "dev"}, DEV, False),
        (["--context", "production"], {"JOBGATEWAY_CONTEXT": "dev"}, PRODUCTION, True),
        # Another target replaces the current context as a whole, so that its token does not go there.
        (["--target", "other:1"], {}, "other:1", False),
        ([], {"JOBGATEWAY_TARGET": "other:1"}, "other:1", False),
        (["--target", "other:1"], {"JOBGATEWAY_CONTEXT": "production"}, "other:1", False),
        ([], {"JOBGATEWAY_TARGET": "other:1", "JOBGATEWAY_CONTEXT": "production"}, "other:1", False),
        # A context that an option names is as strong as an option.
        (["--context", "production"], {"JOBGATEWAY_TARGET": "other:1"}, PRODUCTION, True),
        (["--context", "production"], {"JOBGATEWAY_TOKEN": TOKEN}, PRODUCTION, True),
        (["--context", "dev"], {"JOBGATEWAY_TARGET": "other:1", "JOBGATEWAY_TOKEN_FILE": "other"}, DEV, False),
        (["--context", "dev", "--token-file", "mine"], {"JOBGATEWAY_TOKEN_FILE": "other"}, DEV, True),
        ([], {"JOBGATEWAY_CONTEXT": "dev", "JOBGATEWAY_TOKEN_FILE": "mine"}, DEV, True),
        (["--context", "production", "--target", "other:1"], {}, "other:1", True),
        # The token of the environment goes before that of the current context.
        ([], {"JOBGATEWAY_TOKEN": TOKEN}, PRODUCTION, False),
        ([], {"JOBGATEWAY_TOKEN": TOKEN, "JOBGATEWAY_CONTEXT": "production"}, PRODUCTION, False),
    ],
)
def test_options_go_before_variables_and_contexts(
    file: Path, words: list[str], variables: Mapping[str, str], target: str, has_token_file: bool
) -> None:
    file.write_text(TWO)
    call = taken(*words, **variables)
    assert (call.target, call.token_file is not None) == (target, has_token_file)


def test_each_value_of_a_context_can_be_replaced(file: Path) -> None:
    file.write_text(TWO)
    call = taken("--token-file", "mine", JOBGATEWAY_CA_FILE="ca.pem")
    assert (call.target, call.token_file, call.ca_file) == (PRODUCTION, Path("mine"), Path("ca.pem"))


def test_a_named_context_replaces_the_variables(file: Path) -> None:
    file.write_text(TWO)
    given = {key: "other" for key in contexts.KEYS if key != "tls"} | {"tls": "true"}
    call = taken("--context", "dev", **{f"JOBGATEWAY_{key.upper()}": value for key, value in given.items()})
    assert call == QuickCallOptions(context="dev", target=DEV)


@pytest.mark.parametrize(
    ("values", "takes"), [("", True), ('token_file = "t"', False), ('cert_file = "c"\nkey_file = "k"', False)]
)
def test_a_token_is_not_for_a_context_with_a_credential(
    file: Path, values: str, takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBGATEWAY_TOKEN", TOKEN)
    file.write_text(f'current = "a"\n[contexts.a]\ntarget = "x:1"\n{values}\n')
    named = taken("--context", "a")
    assert (token_given(named), token_given(taken())) == (takes or named.token_file is not None, True)
    if not named.token_file:
        assert token_source(named) == (TOKEN if takes else None)
    shown = json.loads(config("show", "--context", "a", "-o", "json"))
    assert ("token" in shown) is takes


def test_without_tls_files_of_the_context_are_not_used(file: Path) -> None:
    file.write_text('current = "a"\n[contexts.a]\ntarget = "x:1"\nca_file = "ca"\n')
    assert taken().secured
    for call in (taken("--no-tls"), taken("--context", "a", "--no-tls"), taken(JOBGATEWAY_TLS="false")):
        assert not call.secured
    assert not taken("--no-tls", JOBGATEWAY_CA_FILE="ca").secured
    assert taken("--ca-file", "ca", JOBGATEWAY_TLS="false").secured
    assert taken("--no-tls", "--ca-file", "ca").secured


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ([], {}),
        ([], {"JOBGATEWAY_TOKEN": TOKEN}),
        ([], {"JOBGATEWAY_CONTEXT": "production", "JOBGATEWAY_TOKEN": TOKEN}),
        ([], {"JOBGATEWAY_CONTEXT": "production", "JOBGATEWAY_TLS": "false"}),
        ([], {"JOBGATEWAY_CONTEXT": "production", "JOBGATEWAY_TOKEN_FILE": "mine"}),
        (["--no-tls"], {"JOBGATEWAY_CONTEXT": "production", "JOBGATEWAY_TLS": "true"}),
        ([], {"JOBGATEWAY_TLS": "false"}),
        (["--context", "production", "--no-tls"], {"JOBGATEWAY_TLS": "true"}),
        (["--context", "dev"], {"JOBGATEWAY_TOKEN_FILE": "other"}),
        (["--context", "dev"], {}),
        ([], {"JOBGATEWAY_CONTEXT": "dev"}),
        (["--context", "production"], {"JOBGATEWAY_TARGET": "other:1", "JOBGATEWAY_TLS": "1"}),
        (["--target", DEFAULT_TARGET], {}),
        (["--context", "production", "--target", "other:1"], {"JOBGATEWAY_CA_FILE": "ca.pem"}),
        ([], {"JOBGATEWAY_TARGET": "other:1", "JOBGATEWAY_TOKEN_FILE": "mine"}),
        (["--target", "other:1"], {"JOBGATEWAY_CONTEXT": "production"}),
    ],
)
def test_a_printed_command_connects_in_the_same_way(
    file: Path, words: list[str], variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(TWO)
    call = taken(*words, **variables)
    with monkeypatch.context() as shell:
        for name, value in variables.items():
            shell.setenv(name, value)
        printed = repeated_options(call)
    # In another shell, which does not have the variables, and in this one.
    for kept in ({}, variables):
        again = taken(*printed, **kept)
        for each in contexts.KEYS:
            assert getattr(again, each) == getattr(call, each), each


def test_a_copied_command_is_not_diverted_by_a_context(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert target_option(DEFAULT_TARGET) == ""
    assert target_option("other:1") == " --target other:1"
    monkeypatch.setenv("JOBGATEWAY_CONTEXT", "dev")
    assert target_option(DEFAULT_TARGET) == f" --target {DEFAULT_TARGET}"
    monkeypatch.delenv("JOBGATEWAY_CONTEXT")
    for text in (TWO, "["):
        file.write_text(text)
        assert target_option(DEFAULT_TARGET) == f" --target {DEFAULT_TARGET}"


def test_show_repeats_no_secret(file: Path) -> None:
    file.write_text(TWO)
    assert refused("config", "show", "--target", f"me:{TOKEN}@x:1").startswith("--target '***@x:1' has a user; ")
    for result in (run("config", "show", "--token-file", TOKEN), run("config", "show", JOBGATEWAY_TOKEN_FILE=TOKEN)):
        assert "token_file  (no such file)" in result.stdout


def test_show_says_where_each_value_comes_from(file: Path) -> None:
    file.write_text(TWO)
    rows = {line.split()[0]: line.split()[1:] for line in config("show").splitlines()}
    assert rows == {
        "context": ["production", "current"],
        "target": [PRODUCTION, "context"],
        "tls": ["true", "context"],
        "token_file": [f"{file.parent}/production.token", "context"],
    }
    shown = json.loads(run("config", "show", "--target", "x:1", "-o", "json", JOBGATEWAY_TOKEN=TOKEN).stdout)
    assert shown == {
        "target": {"value": "x:1", "source": "option"},
        "token": {"value": "JOBGATEWAY_TOKEN", "source": "variable"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[contexts.a]\ntarget = "x:1"\ntoken = "SECRET"\n', ":3: token: this file must not contain a secret; write"),
        ('token = "SECRET"\n', ":1: token: this file must not contain a secret; write the token to a file that only"),
        ('[contexts.a]\ntarget = "x:1\n', ":2: illegal character '\\n'; correct the TOML there"),
        ('[contexts.a]\ntarget = "x:1"\ntarget = "y:1"\n', ":3: cannot overwrite a value; correct the TOML there"),
        ('[contexts.a]\ntokn_file = "t"\n', ":2: a.tokn_file: there is no such option; did you mean token_file?"),
        ('[contexts.a]\ntls = "yes"\n', ":2: a.tls: must be true or false; leave out quotes"),
        (
            '[contexts.a]\ntoken_file = "a\\u0000"\n',
            ':2: a.token_file: must be a text; write token_file = "~/.config/jobg',
        ),
        (
            '[contexts.a]\ntarget = "me:SECRET@x:1"\n',
            ":2: a.target: '***@x:1' has a user; write HOST:PORT, such as x:1",
        ),
        ("[contexts.a]\ntarget = 50051\n", ':2: a.target: must be a text; write target = "gateway.example.com:443"'),
        ("[contexts.a]\ntls = true\n", ':1: a: has no target; add target = "HOST:PORT"'),
        ('current = "b"\n[contexts.bb]\ntarget = "x:1"\n', ":1: current: there is no context b; there are bb"),
        ('[production]\ntarget = "x:1"\n', ":1: production: is not current or contexts; write it as [contexts.produ"),
        ('[context.a]\ntarget = "x:1"\n', ":1: context: is not current or contexts; did you mean contexts?"),
        ("contexts = 5\n", ":1: contexts: must be tables; write [contexts.NAME]"),
        ("current = 5\n", ':1: current: must be a name; write current = "NAME"'),
        ("[contexts]\na = 5\n", ":2: a: must be a table; write [contexts.a]"),
    ],
)
def test_a_mistake_in_the_file_is_a_line_with_its_place(file: Path, text: str, said: str) -> None:
    file.write_text(text.replace("SECRET", TOKEN))
    for words in (["get", "5"], ["config", "list"], ["config", "use", "a"], ["doctor"]):
        line = refused(*words)
        assert line.startswith(f"{file}{said}")
        # It has a fix of its own.
        assert "--help" not in line


def test_a_mistake_in_the_file_is_an_object_with_json(file: Path) -> None:
    file.write_text("contexts = 5")
    result = run("get", "5", "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "USAGE"
    assert json.loads(result.stdout)["error"]["message"] == result.stderr.strip()
    assert json.loads(run("config", "list", "-o", "json").stdout) == json.loads(result.stdout)


def test_a_file_that_cannot_be_read_is_a_line(file: Path) -> None:
    file.mkdir()
    expected = f"{file}: cannot be read (Is a directory); check the path and its permissions"
    assert refused("get", "5") == expected
    file.rmdir()
    file.symlink_to("nowhere")
    assert refused("get", "5") == (f"{file}: is a link to a file that does not exist; remove it, or create that file")


def test_a_wrong_file_does_not_stop_help_and_completion(file: Path) -> None:
    file.write_text("[")
    assert run("get", "--help").exit_code == 0
    assert contexts.names() == []


def test_the_names_for_completion(file: Path) -> None:
    file.write_text(TWO)
    assert contexts.names() == ["production", "dev"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", "5", "--context", "prodution"], "there is no context prodution; did you mean production?"),
        (["get", "5", "--context", "x"], "there is no context x; there are production, dev"),
        (["config", "use", "x"], "there is no context x; there are production, dev"),
        (["config", "unset", "x"], "there is no context x; there are production, dev"),
        (["config", "unset", "dev", "ca-file"], "dev has no ca-file; it has target"),
        (["config", "unset", "dev", "target"], "a context needs a target; change it, see jobgateway config set --help"),
        (["config", "set", "new"], "nothing to change; give an option, such as --target HOST:PORT, or see it: jobga"),
        (["config", "set", "new", "--tls"], "new is a new context, and needs --target HOST:PORT"),
        (["config", "set", "a b", "--target", "x:1"], "NAME: 'a b' must have 1 to 100 letters, digits or _ . @ : / -"),
        (["config", "set", "", "--target", "x:1"], "NAME: '' must have 1 to 100 letters, digits or _ . @ : / -"),
        (
            ["config", "set", "new", "--target", "http://x:1"],
            "--target 'http://x:1' is a URL; write x:1",
        ),
        (["config", "set", "dev", "--ca-file", "~nobody-here/x"], "--ca-file: there is no such file; give the path"),
        (["get", "5", "--save", "x" * 300], f"--save {'x' * 300} cannot be written (File name too long); name another"),
        # The token itself in the place of a file is not repeated.
        (["config", "set", "dev", "--token-file", TOKEN * 30], "--token-file: there is no such file; give the path"),
        (["config", "set", "dev", "--token-file", TOKEN], "--token-file: there is no such file; give the path of a"),
    ],
)
def test_a_wrong_use_of_contexts_is_a_line(file: Path, words: list[str], said: str) -> None:
    file.write_text(TWO)
    assert refused(*words).startswith(said)
    assert file.read_text() == TWO


def test_without_contexts_a_name_says_how_to_create_one(file: Path) -> None:
    expected = "there is no context x; create it, see jobgateway config set --help"
    assert refused("get", "5", JOBGATEWAY_CONTEXT="x") == expected
    assert refused("config", "use", "x") == expected


@pytest.mark.parametrize("base", ["", "relative"])
def test_the_file_is_in_the_home_directory_otherwise(file: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", base)
    assert contexts.path() == file.parent.parent / "home" / ".config" / "jobgateway" / "config.toml"


def test_a_folder_that_cannot_be_written_is_a_line(file: Path) -> None:
    file.parent.rmdir()
    file.parent.touch()
    line = refused("config", "set", "dev", "--target", "x:1")
    assert line.startswith(f"{file}: cannot be ")


@pytest.mark.parametrize("length", [1, 30])
def test_a_token_in_the_place_of_its_file_is_not_repeated(file: Path, length: int) -> None:
    token = length * TOKEN
    file.write_text(f'[contexts.a]\ntarget = "x:1"\ntoken_file = "{token}"\n')
    mistakes = {
        "--token-file": (["--token-file", token], {}),
        "JOBGATEWAY_TOKEN_FILE": ([], {"JOBGATEWAY_TOKEN_FILE": token}),
        "token_file of the context a": (["--context", "a"], {}),
    }
    for option, (words, variables) in mistakes.items():
        for command in (["get", "5"], ["ping"], ["doctor"]):
            result = run(*command, *words, **variables)
            assert result.exit_code == 6
            assert result.stderr == f"{option}: there is no such file; give the path of a file that exists\n"


def test_a_named_context_without_a_token_is_a_line(file: Path) -> None:
    file.write_text('[contexts.a]\ntarget = "x:1"\ncert_file = "c"\nkey_file = "k"\n')
    # The certificate needs TLS, and the token of the variable may be for another gateway.
    result = run("get", "5", "--context", "a", "--no-tls", JOBGATEWAY_TOKEN=TOKEN)
    assert result.exit_code == 6
    assert result.stderr == "the context a has no token; name a file that holds it with --token-file\n"
