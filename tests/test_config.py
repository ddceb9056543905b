"""Settings from the environment."""

from __future__ import annotations

import os
import re
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import PREFIX, Settings, Sources, load, read
from gateway.errors import ConfigError
from tests.support.paths import ROOT

URL = "https://cloud.viktor.ai/api"
SECRET = "hunter2-secret"
DOCS = ROOT / "docs" / "reference" / "settings.md"
DEFAULTS: dict[str, Any] = {
    "UPSTREAM_PROXY_URL": None,
    "UPSTREAM_HTTP2": True,
    "LISTEN": "127.0.0.1:50051",
    "POLL_INTERVAL_MIN_SECONDS": 0.25,
    "POLL_INTERVAL_MAX_SECONDS": 5.0,
    "POLL_OUTAGE_SECONDS": 300.0,
    "UPSTREAM_TIMEOUT_SECONDS": 10.0,
    "SUBMIT_TIMEOUT_SECONDS": 120.0,
    "DRAIN_GRACE_SECONDS": 30.0,
    "MAX_CALLS": 1_000,
    "MAX_WATCHES": 20_000,
    "MAX_CALLS_PER_CREDENTIAL": None,
    "MAX_WATCHES_PER_CREDENTIAL": None,
    "CALLS_PER_SECOND": 200.0,
    "POLLS_PER_SECOND": 5000.0,
    "SUBMISSIONS_PER_SECOND": 5000.0,
    "TLS_CERT_FILE": None,
    "TLS_KEY_FILE": None,
    "TLS_CLIENT_CA_FILE": None,
    "ALLOW_PLAINTEXT": False,
    "UPSTREAM_TOKEN_FILE": None,
    "STATE_URL": "memory:",
    "STATE_KEY_FILE": None,
    "MAX_CONNECTION_AGE_SECONDS": 3600.0,
    "ADMIN_LISTEN": "127.0.0.1:9464",
    "REFLECTION": True,
    "LOG_FORMAT": None,
    "LOG_LEVEL": "info",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with the one required setting."""
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JOBGATEWAY_UPSTREAM_URL", URL)
    return monkeypatch


def value_of(settings: Settings, name: str) -> Any:
    return getattr(settings, name.lower())


def problem() -> str:
    with pytest.raises(ConfigError) as raised:
        load()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def test_only_the_upstream_has_no_default() -> None:
    settings = load()
    assert settings.upstream_url == URL
    assert {name: value_of(settings, name) for name in DEFAULTS} == DEFAULTS
    assert {name.upper() for name in Settings.model_fields} == {"UPSTREAM_URL", *DEFAULTS}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("UPSTREAM_URL", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("UPSTREAM_URL", "HTTPS://Viktor.example.com./a/b/", "HTTPS://Viktor.example.com./a/b/"),
        ("UPSTREAM_URL", "http://[::1]:8080/api", "http://[::1]:8080/api"),
        ("UPSTREAM_PROXY_URL", "http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("UPSTREAM_HTTP2", "false", False),
        ("LISTEN", "127.1.2.3:0", "127.1.2.3:0"),
        ("LISTEN", "[::1]:50051", "[::1]:50051"),
        ("LISTEN", "LocalHost:1", "LocalHost:1"),
        ("LISTEN", "localhost:65535", "localhost:65535"),
        ("POLL_INTERVAL_MIN_SECONDS", "0.01", 0.01),
        ("POLL_INTERVAL_MAX_SECONDS", "3600", 3600.0),
        ("POLL_OUTAGE_SECONDS", "0.1", 0.1),
        ("UPSTREAM_TIMEOUT_SECONDS", "2.5", 2.5),
        ("SUBMIT_TIMEOUT_SECONDS", "86400", 86_400.0),
        ("DRAIN_GRACE_SECONDS", "0", 0.0),
        ("MAX_CALLS", "1", 1),
        ("MAX_WATCHES", "100000", 100_000),
        ("MAX_CALLS_PER_CREDENTIAL", "1", 1),
        ("MAX_WATCHES_PER_CREDENTIAL", "20000", 20_000),
        ("CALLS_PER_SECOND", "0.5", 0.5),
        ("POLLS_PER_SECOND", "0.1", 0.1),
        ("SUBMISSIONS_PER_SECOND", "100000", 100_000.0),
        ("ALLOW_PLAINTEXT", "true", True),
        ("UPSTREAM_TOKEN_FILE", "/run/token", Path("/run/token")),
        ("MAX_CONNECTION_AGE_SECONDS", "1", 1.0),
        ("ADMIN_LISTEN", "0.0.0.0:0", "0.0.0.0:0"),
        ("REFLECTION", "false", False),
        ("LOG_FORMAT", "text", "text"),
        ("LOG_LEVEL", "debug", "debug"),
    ],
)
def test_reads_each_setting(environment: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    environment.setenv(PREFIX + name, text)
    assert value_of(load(), name) == value


WRONG = {
    "UPSTREAM_URL": [
        "",
        "cloud.viktor.ai/api",
        "ftp://cloud.viktor.ai",
        "https://",
        "https:///api",
        "https://a b/api",
        "https://host/a b",
        "https://host/ä",
        "https://a..b/api",
        f"https://{'a' * 64}.com/api",
        "https://host:port/api",
        "https://host:65536/api",
        "https://[::g]/api",
        "https://[::1/api",
        "https://host/api\nx",
        f"https://user:{SECRET}@host/api",
        f"https://{SECRET}@host/api",
        f"https://host/api?token={SECRET}",
        f"https://host/api#{SECRET}",
    ],
    "UPSTREAM_PROXY_URL": [
        *(
            "",
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://",
            "http://proxy:3128/",
            "http://a b:1",
        ),
        *(f"http://user:{SECRET}@proxy:3128", f"http://proxy:3128/{SECRET}", f"http://proxy:3128?{SECRET}"),
    ],
    "LISTEN": [
        *("", "50051", ":50051", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1"),
        *("localhost:٣", "local host:1", "::1:50051", "[::g]:1", "unix:/tmp/socket:1"),
    ],
    "POLL_INTERVAL_MIN_SECONDS": ["", "0", "-1", "nan", "inf", "3601", "often"],
    "POLL_INTERVAL_MAX_SECONDS": ["", "0", "-1", "nan", "inf", "3601", "1s"],
    "POLL_OUTAGE_SECONDS": ["", "0", "nan", "inf", "86401"],
    "UPSTREAM_TIMEOUT_SECONDS": ["", "0", "nan", "3601"],
    "SUBMIT_TIMEOUT_SECONDS": ["", "0", "nan", "86401"],
    "DRAIN_GRACE_SECONDS": ["", "-0.1", "nan", "3601"],
    "MAX_CALLS": ["", "0", "-1", "1.5", "many", "100001"],
    "MAX_WATCHES": ["", "0", "-1", "1.5", "100001", "1\n2", "9" * 5_000],
    "MAX_CALLS_PER_CREDENTIAL": ["", "0", "none", "100001"],
    "MAX_WATCHES_PER_CREDENTIAL": ["", "0", "1.5", "100001"],
    "CALLS_PER_SECOND": ["", "0", "nan", "inf", "100001"],
    "POLLS_PER_SECOND": ["", "0", "nan", "inf", "100001"],
    "SUBMISSIONS_PER_SECOND": ["", "0", "-1", "nan", "100001"],
    "TLS_CERT_FILE": ["", "/"],
    "TLS_KEY_FILE": ["", "."],
    "TLS_CLIENT_CA_FILE": ["", "/"],
    "ALLOW_PLAINTEXT": ["", "yes please", "2"],
    "UPSTREAM_TOKEN_FILE": ["", "/"],
    "MAX_CONNECTION_AGE_SECONDS": ["", "0", "0.9", "nan", "inf", "86401"],
    "ADMIN_LISTEN": ["", "9464", "localhost", "unix:/tmp/socket:1"],
    "UPSTREAM_HTTP2": ["", "h2"],
    "REFLECTION": ["", "maybe"],
    "LOG_FORMAT": ["", "JSON", "yaml"],
    "LOG_LEVEL": ["", "INFO", "trace"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_wrong_value_is_one_line_with_the_variable(environment: pytest.MonkeyPatch, name: str, text: str) -> None:
    environment.setenv(PREFIX + name, text)
    message = problem()
    assert re.fullmatch(rf"{PREFIX}{name}: [a-z].{{10,300}}", message), message
    assert name.endswith("_URL") or f"(got {text[:100]!r})" in message
    assert SECRET not in message


def test_the_upstream_is_required(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("JOBGATEWAY_UPSTREAM_URL")
    assert problem() == "JOBGATEWAY_UPSTREAM_URL: required, but not set; set it, or give --upstream-url"


def test_all_mistakes_are_reported_together(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("JOBGATEWAY_UPSTREAM_URL")
    environment.setenv("JOBGATEWAY_MAX_CALL", "5")
    environment.setenv("JOBGATEWAY_LISTEN", "50051")
    environment.setenv("JOBGATEWAY_MAX_WATCHES", "0")
    assert problem().splitlines() == [
        "JOBGATEWAY_MAX_CALL: there is no such setting; did you mean JOBGATEWAY_MAX_CALLS?",
        "JOBGATEWAY_UPSTREAM_URL: required, but not set; set it, or give --upstream-url",
        "JOBGATEWAY_LISTEN: must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051 (got '50051')",
        "JOBGATEWAY_MAX_WATCHES: must be at least 1 (got '0')",
    ]


def test_all_conflicts_are_reported_together(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_LISTEN", "0.0.0.0:1")
    environment.setenv("JOBGATEWAY_UPSTREAM_TOKEN_FILE", "token")
    environment.setenv("JOBGATEWAY_MAX_CALLS_PER_CREDENTIAL", "2000")
    named = [line.partition(":")[0].removeprefix(PREFIX) for line in problem().splitlines()]
    assert named == ["LISTEN", "UPSTREAM_TOKEN_FILE", "MAX_CALLS_PER_CREDENTIAL"]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("JOBGATEWAY_", "docs/reference/settings.md lists all"),
        ("JobGateway_X", "docs/reference/settings.md lists all"),
        ("JOBGATEWAY_MAX_STREAMS", "docs/reference/settings.md lists all"),
        ("JOBGATEWAY_MAX_CALL", "did you mean JOBGATEWAY_MAX_CALLS?"),
        ("JOBGATEWAY_UPSTREAM_TOKEN", "did you mean JOBGATEWAY_UPSTREAM_TOKEN_FILE?"),
        ("jobgateway_max_calls", "did you mean JOBGATEWAY_MAX_CALLS?"),
        ("jobgateway_listen", "did you mean JOBGATEWAY_LISTEN?"),
        ("JOBGATEWAY_CERT_FILE", "did you mean JOBGATEWAY_TLS_CERT_FILE?"),
        ("JOBGATEWAY_TOKEN_FILE", "did you mean JOBGATEWAY_UPSTREAM_TOKEN_FILE?"),
        ("JOBGATEWAY_UPSTEAM_URL", "did you mean JOBGATEWAY_UPSTREAM_URL?"),
    ],
)
def test_an_unknown_variable_is_named_without_its_value(environment: pytest.MonkeyPatch, name: str, fix: str) -> None:
    environment.setenv(name, SECRET)
    assert problem() == f"{name}: there is no such setting; {fix}"


@pytest.mark.parametrize(
    ("name", "text", "demand"),
    [
        ("REFLECTION", "ture", "must be true or false (got 'ture'); write true"),
        ("REFLECTION", "fasle", "must be true or false (got 'fasle'); write false"),
        ("LOG_FORMAT", "JSON", "must be json or text (got 'JSON'); write json"),
        ("LOG_LEVEL", "DEBUG", "must be debug, info, warning or error (got 'DEBUG'); write debug"),
        ("UPSTREAM_TIMEOUT_SECONDS", "30s", "must be a number of seconds (got '30s'); write 30"),
        ("UPSTREAM_TIMEOUT_SECONDS", "1.5 min", "must be a number of seconds (got '1.5 min'); write 90"),
        ("POLL_INTERVAL_MIN_SECONDS", "250ms", "must be a number of seconds (got '250ms'); write 0.25"),
        ("MAX_WATCHES", "20k", "must be a whole number (got '20k'); write 20000"),
        ("MAX_WATCHES", "10,000", "must be a whole number (got '10,000'); write 10000"),
        # The number that was meant is not valid either, or is not clear.
        ("UPSTREAM_TIMEOUT_SECONDS", "2h", "must be a number of seconds (got '2h')"),
        ("MAX_WATCHES", "30s", "must be a whole number (got '30s')"),
        ("MAX_WATCHES", "1,5", "must be a whole number (got '1,5')"),
        ("REFLECTION", "yes please", "must be true or false (got 'yes please')"),
    ],
)
def test_a_wrong_value_says_what_was_meant(environment: pytest.MonkeyPatch, name: str, text: str, demand: str) -> None:
    environment.setenv(PREFIX + name, text)
    assert problem() == f"{PREFIX}{name}: {demand}"


@pytest.mark.parametrize(
    ("name", "text", "begin"),
    [
        ("UPSTREAM_URL", "cloud.viktor.ai/api", "https://"),
        ("UPSTREAM_URL", f"htps://x:{SECRET}/api", "https://"),
        ("UPSTREAM_URL", "https:/cloud.viktor.ai", "https://"),
        ("UPSTREAM_PROXY_URL", "proxy:3128", "http://"),
        ("STATE_URL", f"rediss:/x:{SECRET}@host/0", "rediss://"),
        ("STATE_URL", f"reddis://x:{SECRET}@host/0", "redis://"),
        ("STATE_URL", "sqllite:///data/state", "sqlite://"),
    ],
)
def test_a_wrong_scheme_says_which_was_meant(environment: pytest.MonkeyPatch, name: str, text: str, begin: str) -> None:
    environment.setenv(PREFIX + name, text)
    environment.setenv("JOBGATEWAY_STATE_KEY_FILE", "key")
    message = problem()
    assert message.startswith(f"{PREFIX}{name}: must be ")
    assert message.endswith(f"; begin with {begin}")


def test_a_right_scheme_has_no_such_hint(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_UPSTREAM_URL", "https://host:port/api")
    assert "begin with" not in problem()


def test_a_wrong_value_causes_no_second_line_about_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_TLS_CERT_FILE", "cert.pem")
    environment.setenv("JOBGATEWAY_TLS_KEY_FILE", "/")
    environment.setenv("JOBGATEWAY_MAX_CALLS_PER_CREDENTIAL", "2000")
    named = [line.partition(":")[0].removeprefix(PREFIX) for line in problem().splitlines()]
    assert named == ["TLS_KEY_FILE", "MAX_CALLS_PER_CREDENTIAL"]


def test_flags_go_before_variables_and_are_named_in_problems(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_MAX_CALLS", "5")
    environment.setenv("JOBGATEWAY_MAX_WATCHES", "6")
    reading = read(Sources({"max_calls": "7"}))
    assert (reading.settings.max_calls, reading.settings.max_watches, reading.problems) == (7, 6, ())
    sources = {name: reading.sources[name] for name in ("max_calls", "max_watches", "listen")}
    assert sources == {"max_calls": "flag", "max_watches": "environment", "listen": "default"}
    assert read(Sources({"max_calls": "0"})).problems == ("--max-calls: must be at least 1 (got '0')",)


def test_variables_of_other_programs_are_ignored(environment: pytest.MonkeyPatch) -> None:
    foreign = ("JOBGATEWAY_TOKEN", "JOBGATEWAY_CERT_FILE")
    for name in (*foreign, "OTHER_MAX_CALLS"):
        environment.setenv(name, SECRET)
    reading = read(Sources(is_foreign=lambda name: name in foreign))
    assert reading.problems == ()
    assert SECRET not in repr(reading)
    # The one that looks like a setting may be a mistake.
    assert reading.remarks == (
        "JOBGATEWAY_CERT_FILE: is for the commands that call a gateway, and not used here; did you mean "
        "JOBGATEWAY_TLS_CERT_FILE?",
    )


def test_a_file_comes_after_flags_and_variables(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'upstream_url = "{URL}/file"\n\nmax_calls = 5\nmax_watches = 6\nsubmit_timeout_seconds = 1.5\n'
        'reflection = false\nlog_level = "debug"\n'
    )
    environment.setenv("JOBGATEWAY_MAX_CALLS", "7")
    reading = read(Sources({"max_watches": "8"}, file))
    assert reading.problems == ()
    names = ("upstream_url", "max_calls", "max_watches", "submit_timeout_seconds", "reflection", "log_level")
    assert [getattr(reading.settings, name) for name in names] == [URL, 7, 8, 1.5, False, "debug"]
    assert [reading.sources[name] for name in names] == ["environment", "environment", "flag", "file", "file", "file"]


def test_mistakes_in_a_file_have_its_lines(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("JOBGATEWAY_MAX_CALLS", "0")
    file = tmp_path / "gateway.toml"
    file.write_text(
        '# max_call\nmax_call = 5\njobgateway_listen = "x"\nmax_watches = 0\nmax_calls = 1\n'
        f'state_url = "reddis://{SECRET}"\ntls_key_file = [\n  "a",\n]\n[secret]\ntoken = "{SECRET}"\n'
    )
    problems = read(Sources({}, file)).problems
    assert problems == (
        f"{file}:2: max_call: there is no such setting; did you mean max_calls?",
        f"{file}:3: jobgateway_listen: there is no such setting; did you mean listen?",
        f"{file}:7: tls_key_file: must be a text, a number, true or false",
        f"{file}:10: secret: there is no such setting; docs/reference/settings.md lists all",
        "JOBGATEWAY_MAX_CALLS: must be at least 1 (got '0')",
        f"{file}:4: max_watches: must be at least 1 (got '0')",
        problems[-1],
    )
    assert problems[-1].startswith(f"{file}:6: state_url: must be memory:")
    assert SECRET not in "".join(problems)


def test_a_switch_in_a_file_is_no_text(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('reflection = "yes"\nJOBGATEWAY_MAX_CALLS = 3\n')
    assert read(Sources(file=file)).problems == (
        f"{file}:1: reflection: must be true or false; leave out quotes",
        f"{file}:2: JOBGATEWAY_MAX_CALLS: there is no such setting; did you mean max_calls?",
    )


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"max_calls = 5\nmax_watches 6\n", ":2: expected '=' after a key in a key/value pair; correct the TOML"),
        (b"max_calls = 5\nmax_calls = 6\n", ":2: cannot overwrite a value; correct the TOML"),
        (b'max_calls = 5\nlog_level = "', ":2: "),
        (b"max_calls = 5\n\xff\n", ":2: is not UTF-8; save the file in that encoding"),
        (b"max_calls = " + b"[" * 5000, ": is nested too deeply; check that it is the right file"),
        (b"max_calls = " + b"9" * 5000, ": has a number with too many digits; check that it is the right file"),
        (b"max_calls = 0x" + b"F" * 5000, ":1: max_calls: must be a text, a number, true or false"),
        (b"#" * (1 << 20) + b"\n", ": has more than 1,048,576 bytes; check that it is the right file"),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, contents: bytes, problem: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(contents)
    line = read(Sources({"upstream_url": URL}, file)).problems[0]
    assert line.startswith(f"{file}{problem}"), line


def test_a_right_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'upstream_url = "{URL}"\nmax_calls = 5\n')
    parse, parsed = tomllib.loads, []

    def counted(text: str) -> dict[str, object]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    assert read(Sources({}, file)).settings.max_calls == 5
    assert len(parsed) == 1


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    assert read(Sources({}, missing)).problems == (f"{missing}: does not exist; check the path of --config",)
    folder = (f"{tmp_path}: cannot be read (Is a directory); check the path and its permissions",)
    assert read(Sources({}, tmp_path)).problems == folder


def test_a_byte_order_mark_in_a_file_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbfmax_calls = 5\r\n")
    assert read(Sources({}, file)).settings.max_calls == 5


def test_the_longest_interval_is_not_below_the_shortest(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS", "0.1")
    assert problem() == (
        "JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS: 0.1 is below JOBGATEWAY_POLL_INTERVAL_MIN_SECONDS (0.25); "
        "raise it, or lower the minimum"
    )


@pytest.mark.parametrize(("of", "default"), [("CALLS", 1_000), ("WATCHES", 20_000)])
def test_one_credential_cannot_have_more_than_all(environment: pytest.MonkeyPatch, of: str, default: int) -> None:
    environment.setenv(f"JOBGATEWAY_MAX_{of}_PER_CREDENTIAL", str(default + 1))
    assert problem() == (
        f"JOBGATEWAY_MAX_{of}_PER_CREDENTIAL: {default + 1} is above JOBGATEWAY_MAX_{of} ({default}), the limit of all "
        "credentials together; lower the first or raise the second"
    )
    environment.setenv(f"JOBGATEWAY_MAX_{of}", str(default + 1))
    load()


TLS = {"TLS_CERT_FILE": "c.pem", "TLS_KEY_FILE": "k.pem"}
MTLS = TLS | {"TLS_CLIENT_CA_FILE": "ca.pem"}
ANYWHERE = {"LISTEN": "0.0.0.0:50051"}
PLAINTEXT = {"ALLOW_PLAINTEXT": "true"}
GATEWAY_TOKEN = {"UPSTREAM_TOKEN_FILE": "token"}


@pytest.mark.parametrize(
    "together",
    [
        *(TLS, MTLS, TLS | ANYWHERE, MTLS | ANYWHERE, PLAINTEXT | ANYWHERE, TLS | PLAINTEXT, GATEWAY_TOKEN),
        *(GATEWAY_TOKEN | TLS, GATEWAY_TOKEN | MTLS, GATEWAY_TOKEN | MTLS | ANYWHERE, {"LISTEN": "[::1]:1"}),
    ],
)
def test_settings_can_be_combined(environment: pytest.MonkeyPatch, together: dict[str, str]) -> None:
    for name, text in together.items():
        environment.setenv(PREFIX + name, text)
    load()


@pytest.mark.parametrize(
    ("together", "why"),
    [
        ({"TLS_CERT_FILE": "c.pem"}, "TLS_KEY_FILE: required with JOBGATEWAY_TLS_CERT_FILE, but not set"),
        ({"TLS_KEY_FILE": "k.pem"}, "TLS_CERT_FILE: required with JOBGATEWAY_TLS_KEY_FILE, but not set"),
        ({"TLS_CLIENT_CA_FILE": "a.pem"}, "TLS_CERT_FILE: required with JOBGATEWAY_TLS_CLIENT_CA_FILE, but not set"),
        (ANYWHERE, "LISTEN: 0.0.0.0:50051 is not loopback, and tokens would .*_ALLOW_PLAINTEXT=true if a mesh sidecar"),
        (ANYWHERE | {"ALLOW_PLAINTEXT": "false"}, "LISTEN: 0.0.0.0:50051 is not loopback"),
        (
            GATEWAY_TOKEN | ANYWHERE | PLAINTEXT,
            "UPSTREAM_TOKEN_FILE: every program that reaches .*_TLS_CLIENT_CA_FILE, so that",
        ),
        (GATEWAY_TOKEN | ANYWHERE | TLS, "UPSTREAM_TOKEN_FILE: every program that reaches 0.0.0.0:50051 could use"),
        *(
            ({"LISTEN": listen}, f"LISTEN: {re.escape(listen)} is not loopback")
            for listen in (
                "[::]:1",
                "10.0.0.1:1",
                "127.1:1",
                "gateway:1",
                "localhost.example:1",
                "[::ffff:127.0.0.1]:1",
            )
        ),
    ],
)
def test_conflicting_settings_are_reported(environment: pytest.MonkeyPatch, together: dict[str, str], why: str) -> None:
    for name, text in together.items():
        environment.setenv(PREFIX + name, text)
    message = problem()
    assert re.match(PREFIX + why, message), message


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.max_calls = 5  # type: ignore[misc]


def _range(name: str) -> str:
    limits = {type(each).__name__.lower(): each for each in Settings.model_fields[name].metadata}
    if {"ge", "le"} <= set(limits):
        return f"{limits['ge'].ge:g} to {limits['le'].le:,}"
    return ""


def _default(field: Any) -> str:
    if field.is_required() or field.default is None:
        return ""
    # As it would be set.
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def test_the_settings_page_is_up_to_date() -> None:
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_range(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    table = DOCS.read_text().partition("<!-- end of the generated part -->")[0]
    documented = [line for line in table.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert documented == rows


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:////var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
        ("redis://me:a-secret@store:6380/2?password=a-secret", "redis://store:6380/2"),
        ("REDISS://:a-secret@[::1]", "rediss://[::1]"),
    ],
)
def test_the_name_of_the_store_has_no_password(environment: pytest.MonkeyPatch, url: str, shown: str) -> None:
    environment.setenv("JOBGATEWAY_STATE_URL", url)
    environment.setenv("JOBGATEWAY_STATE_KEY_FILE", "/key")
    assert load().state_store == shown


def test_changed_limits_are_numbers_that_differ(environment: pytest.MonkeyPatch) -> None:
    assert load().changed_limits == {}
    changes = {"MAX_CALLS": "7", "POLLS_PER_SECOND": "0.5", "MAX_WATCHES": "20000", "REFLECTION": "false"}
    for name, value in changes.items():
        environment.setenv(PREFIX + name, value)
    assert load().changed_limits == {"max_calls": 7, "polls_per_second": 0.5}


def test_a_conflict_names_an_option_as_it_was_given(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('listen = "0.0.0.0:1"\n')
    flags = {"tls_cert_file": "cert.pem"}
    assert read(Sources(flags)).problems == ("JOBGATEWAY_TLS_KEY_FILE: required with --tls-cert-file, but not set",)
    (problem,) = read(Sources({}, file)).problems
    assert problem.startswith(f"{file}:1: listen: 0.0.0.0:1 is not loopback")
    assert "set JOBGATEWAY_TLS_CERT_FILE and JOBGATEWAY_TLS_KEY_FILE" in problem


def test_the_server_names_an_option_as_it_was_given(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JOBGATEWAY_ADMIN_LISTEN", "127.0.0.1:0")
    reading = read(Sources({"listen": "127.0.0.1:1"}))
    assert reading.as_given("JOBGATEWAY_LISTEN: x cannot be bound") == "--listen: x cannot be bound"
    assert reading.as_given("JOBGATEWAY_ADMIN_LISTEN: x is also JOBGATEWAY_LISTEN; y") == (
        "JOBGATEWAY_ADMIN_LISTEN: x is also --listen; y"
    )


def test_a_damaged_file_is_the_only_mistake(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("upstream_url = [\n")
    environment.delenv("JOBGATEWAY_UPSTREAM_URL")
    # Its certificate may be in the file, too.
    environment.setenv("JOBGATEWAY_TLS_KEY_FILE", "key.pem")
    (problem,) = read(Sources({}, file)).problems
    assert problem.startswith(f"{file}:")
