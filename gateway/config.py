"""The settings of `serve`: one validated, frozen object, from flags, the environment and a file.

docs/reference/settings.md describes them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from gateway import hints
from gateway.errors import ConfigError
from gateway.toml_file import TomlFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from pydantic_core import ErrorDetails


PREFIX = "JOBGATEWAY_"
# Variables whose value may hold a password, and is never repeated.
UNQUOTED = frozenset({"JOBGATEWAY_UPSTREAM_URL", "JOBGATEWAY_UPSTREAM_PROXY_URL", "JOBGATEWAY_STATE_URL"})
MAX_QUOTED_CHARACTERS = 100
_VARIABLE = re.compile(rf"\b{PREFIX}([A-Z0-9_]+)\b")
# The context of a validation that looks at each setting alone.
_EACH_ALONE = "each alone"
# Takes the place of an upstream that is missing or wrong, so that the other settings can be checked.
_NO_UPSTREAM = "http://upstream.invalid"

# A host name. Without this check, empty and overlong labels fail only at the first call.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)

# Host and port; the scheme and the path are checked only.
_URL = re.compile(r"https?://(\[[^\]]*\]|[^/:@?#\[\]]*)(?::(\d{1,5}))?(?:/[!-~]*)?", re.IGNORECASE | re.ASCII)


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    return _HOST.fullmatch(host) is not None


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not (_is_host(host) and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return value


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _file(value: Path | None) -> Path | None:
    # pydantic reads an empty text as the current folder.
    if value is not None and not value.name:
        raise ValueError("must be the path of a file")
    return value


def _begin(url: str, *schemes: str, default: str | None = None) -> str:
    meant = hints.beginning(url, schemes, default)
    return f"; begin with {meant}" if meant else ""


def _http_url(value: str) -> str:
    if any(each in value for each in "@?#"):
        raise ValueError("must not have a user, query or fragment: the credentials come with the calls")
    if re.search(r"/\.\.?(/|$)|%|\\|;", value):
        raise ValueError(
            "must not have . or .. as a segment of its path, nor % \\ or ;, which servers read differently"
        )
    match = _URL.fullmatch(value)
    if match is None or not _is_host(match[1]) or int(match[2] or 0) > 65535:
        begin = _begin(value, "https", "http", default="https")
        raise ValueError(f"must be an http or https URL, such as https://cloud.viktor.ai/api{begin}")
    return value


def _proxy_url(value: str) -> str:
    match = _URL.fullmatch(value)
    if match is None or value.count("/") > 2 or not value.lower().startswith("http:") or not _is_host(match[1]):
        raise ValueError(
            f"must be http://HOST:PORT, without a user, password or path{_begin(value, 'http', default='http')}"
        )
    return value


# User and password, host and port, database, options.
_REDIS = re.compile(
    r"rediss?://(?:[!-.0-9:;<=>A-Z\[\]^_`a-z{|}~%]*@)?(\[[^\]]*\]|[^/:@?#\[\]]*)(?::(\d{1,5}))?(?:/(\d{0,9}))?"
    r"(?:\?([!-\"$-~]*))?",
    re.IGNORECASE | re.ASCII,
)
_SQLITE = re.compile(r"sqlite:///(/?[^?#\0]*[^?#\0/])", re.IGNORECASE)


def _state_url(value: str) -> str:
    scheme = value.lower().partition(":")[0]
    if scheme in ("redis", "rediss"):
        match = _REDIS.fullmatch(value)
        if match is None or not _is_host(match[1]) or int(match[2] or 0) > 65535:
            # The URL is not quoted, because it may have a password.
            raise ValueError(
                f"must be {scheme}://USER:PASSWORD@HOST:PORT/DATABASE, in which DATABASE is a number; write special "
                "characters of the password as in any URL (@ is %40), and an IPv6 address in brackets"
                f"{_begin(value, 'redis', 'rediss')}"
            )
    elif scheme == "sqlite":
        if not _SQLITE.fullmatch(value):
            raise ValueError("must be sqlite:///PATH with the absolute path of a file, and no options")
    elif value.lower() != "memory:":
        raise ValueError(
            "must be memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE or rediss://HOST:PORT/DATABASE"
            f"{_begin(value, 'redis', 'rediss', 'sqlite')}"
        )
    return value


_File = Annotated[Path | None, AfterValidator(_file)]
_Listen = Annotated[str, AfterValidator(_listen)]


class Settings(BaseModel):
    """All settings; each field is the variable `JOBGATEWAY_` and its name in capitals. Seconds may be fractional."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    upstream_url: Annotated[str, AfterValidator(_http_url)] = Field(
        description="Base URL of the REST API, such as `https://cloud.viktor.ai/api`. Required."
    )
    upstream_proxy_url: Annotated[str, AfterValidator(_proxy_url)] | None = Field(
        None, description="HTTP proxy to the upstream, as `http://HOST:PORT`."
    )
    upstream_http2: bool = Field(
        True,
        description="`true` sends submissions over HTTP/2 if the upstream offers it. Set `false` if its HTTP/2 is "
        "broken.",
    )
    listen: _Listen = Field("127.0.0.1:50051", description="gRPC address, as HOST:PORT. Port 0 selects a free one.")
    poll_interval_min_seconds: float = Field(
        0.25, ge=0.01, le=3600, description="Shortest time between two polls of a job, when its watch is new."
    )
    poll_interval_max_seconds: float = Field(
        5.0, ge=0.01, le=3600, description="Longest time between two polls of a job. At least the shortest."
    )
    poll_outage_seconds: float = Field(
        300.0, ge=0.1, le=86_400, description="Longest outage of the upstream that a watch survives."
    )
    upstream_timeout_seconds: float = Field(
        10.0, ge=0.1, le=3600, description="Longest silence of the upstream during a read or a cancellation."
    )
    submit_timeout_seconds: float = Field(
        120.0,
        ge=0.1,
        le=86_400,
        description="Longest time for a submission. With `poll_result`, the upstream delays its response.",
    )
    drain_grace_seconds: float = Field(30.0, ge=0, le=3600, description="Time for calls in flight after SIGTERM.")
    max_calls: int = Field(1_000, ge=1, le=100_000, description="Calls in flight, watches excluded.")
    max_watches: int = Field(
        20_000, ge=1, le=100_000, description="Watches in flight: `WatchJob`, `RunJob`, each job of `WatchJobs`."
    )
    max_calls_per_credential: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Calls in flight per credential, which in any case may hold at most three "
        "times as many as it leaves free. At most `JOBGATEWAY_MAX_CALLS`.",
    )
    max_watches_per_credential: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Watches in flight per credential, which in any case may hold at most three "
        "times as many as it leaves free. At most `JOBGATEWAY_MAX_WATCHES`.",
    )
    calls_per_second: float = Field(
        200.0,
        ge=0.1,
        le=100_000,
        description="Calls per second and credential, watches included, while other credentials "
        "call too. Calls over the limit are rejected. Watches on `WatchJobs` streams have the same rate again and "
        "wait.",
    )
    polls_per_second: float = Field(
        5_000.0, ge=0.1, le=100_000, description="Polls per second and credential. Polls over the limit wait."
    )
    submissions_per_second: float = Field(
        5_000.0,
        ge=0.1,
        le=100_000,
        description="Submissions per second and credential. Submissions over the limit are rejected.",
    )
    tls_cert_file: _File = Field(
        None, description="Certificate of the listener and its chain, in PEM. Read again when it changes."
    )
    tls_key_file: _File = Field(None, description="Private key of the certificate, in PEM without a password.")
    tls_client_ca_file: _File = Field(
        None, description="Certificate authorities, in PEM, for client certificates. If set, clients must present one."
    )
    allow_plaintext: bool = Field(
        False,
        description="`true` allows plain text on other addresses than loopback, for a mesh sidecar "
        "that terminates TLS.",
    )
    upstream_token_file: _File = Field(
        None, description="Token for calls without one. Requires a client CA, or a listener on loopback."
    )
    state_url: Annotated[str, AfterValidator(_state_url)] = Field(
        "memory:",
        description="Store of the request ids: `memory:`, `sqlite:///PATH` or `redis://HOST:PORT/DATABASE` "
        "(`rediss://` with TLS).",
    )
    state_key_file: _File = Field(
        None,
        description="Secret key of at least 32 bytes for the hashes in the store, the same for all replicas. A second "
        "line is the old key during a rotation. Required for Redis; with SQLite, created beside the database.",
    )
    max_connection_age_seconds: float = Field(
        3600.0,
        ge=1,
        le=86_400,
        description="Time for which a connection accepts new calls, plus or minus a tenth. Open calls on it continue.",
    )
    admin_listen: _Listen = Field(
        "127.0.0.1:9464",
        description="HTTP address of the status page, `/metrics`, `/livez` and `/readyz`, as HOST:PORT. Port 0 selects "
        "a free one.",
    )
    reflection: bool = Field(True, description="`false` turns server reflection off.")
    log_format: Literal["json", "text"] | None = Field(
        None,
        description="`json` or `text`, one line per event on standard error. Unset: `text` on a terminal, else `json`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged: `debug`, `info`, `warning` or `error`."
    )

    @property
    def tls(self) -> Literal["off", "tls", "mtls"]:
        """The protection of the gRPC port."""
        if self.tls_cert_file is None:
            return "off"
        return "tls" if self.tls_client_ca_file is None else "mtls"

    @property
    def state_store(self) -> str:
        """`state_url` without a user, a password and options, which may be another password."""
        match = _REDIS.fullmatch(self.state_url)
        if match is None:
            return self.state_url
        host, port, database = match.groups()[:3]
        scheme = self.state_url.partition(":")[0].lower()
        return f"{scheme}://{host}" + (f":{port}" if port else "") + (f"/{database}" if database else "")

    @property
    def changed_limits(self) -> dict[str, float]:
        """The settings with a number that differs from its default."""
        values = {name: (getattr(self, name), field.default) for name, field in type(self).model_fields.items()}
        return {
            name: value
            for name, (value, default) in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and value != default
        }

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if info.context != _EACH_ALONE and (conflicts := list(_conflicts(self))):
            raise ValueError("\n".join(conflicts))
        return self


def _conflicts(settings: Settings) -> Iterator[str]:
    yield from _plaintext_conflicts(settings)
    yield from _token_conflicts(settings)
    yield from _state_conflicts(settings)
    yield from _limit_conflicts(settings)


def _plaintext_conflicts(settings: Settings) -> Iterator[str]:
    cert, key, client_ca = (f"{PREFIX}TLS_{name}_FILE" for name in ("CERT", "KEY", "CLIENT_CA"))
    if settings.tls_cert_file is None:
        if settings.tls_key_file is not None:
            yield f"{cert}: required with {key}, but not set"
        if settings.tls_client_ca_file is not None:
            yield f"{cert}: required with {client_ca}, but not set"
        if not (settings.allow_plaintext or _is_loopback(settings.listen)):
            yield (
                f"{PREFIX}LISTEN: {settings.listen} is not loopback, and tokens would cross the network in plain text; "
                f"set {cert} and {key}, or {PREFIX}ALLOW_PLAINTEXT=true if a mesh sidecar terminates TLS in front of it"
            )
    elif settings.tls_key_file is None:
        yield f"{key}: required with {cert}, but not set"


def _token_conflicts(settings: Settings) -> Iterator[str]:
    if not (settings.upstream_token_file is None or settings.tls_client_ca_file or _is_loopback(settings.listen)):
        yield (
            f"{PREFIX}UPSTREAM_TOKEN_FILE: every program that reaches {settings.listen} could use the gateway's token; "
            f"set {PREFIX}TLS_CLIENT_CA_FILE, so that clients must show a certificate, or listen on loopback"
        )


def _state_conflicts(settings: Settings) -> Iterator[str]:
    if settings.state_url.lower().startswith("redis") and settings.state_key_file is None:
        yield f"{PREFIX}STATE_KEY_FILE: required with a redis URL, but not set"


def _limit_conflicts(settings: Settings) -> Iterator[str]:
    longest, shortest = settings.poll_interval_max_seconds, settings.poll_interval_min_seconds
    if longest < shortest:
        yield (
            f"{PREFIX}POLL_INTERVAL_MAX_SECONDS: {longest:g} is below {PREFIX}POLL_INTERVAL_MIN_SECONDS "
            f"({shortest:g}); raise it, or lower the minimum"
        )
    for name in ("max_calls", "max_watches"):
        total, per_credential = getattr(settings, name), getattr(settings, f"{name}_per_credential")
        if per_credential is not None and per_credential > total:
            variable = PREFIX + name.upper()
            yield (
                f"{variable}_PER_CREDENTIAL: {per_credential} is above {variable} ({total}), the limit of all "
                "credentials together; lower the first or raise the second"
            )


@dataclass(frozen=True)
class Sources:
    """The sources of the settings, besides the environment and the defaults.

    Attributes:
        flags: Values by the name of the field, as text. They take precedence over the environment.
        file: A TOML file with the names of the fields. The environment takes precedence over it.
        is_foreign: Whether a variable with the prefix of the settings belongs to something else.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    is_foreign: Callable[[str], bool] = lambda _: False


_ENVIRONMENT = Sources()


@dataclass(frozen=True)
class Reading:
    """The settings of all sources, with all mistakes.

    Attributes:
        settings: The valid settings, with defaults in place of wrong ones. They may conflict.
        sources: `flag`, `environment`, `file` or `default`, by the name of the field.
        given: The values of all sources, by the name of the field.
        problems: One line for each setting that is missing, wrong or unknown, and for each conflict.
        remarks: One line for each foreign variable that looks like a mistyped setting.
    """

    settings: Settings
    sources: Mapping[str, str]
    given: Mapping[str, _Value]
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def as_given(self, problem: str) -> str:
        """Return a problem that names its setting by the variable, with the option or the line that gave it."""
        return _as_given(problem, self.given)


@dataclass(frozen=True)
class _Value:
    """A value as text, its source, and its name there."""

    text: str
    source: str
    name: str
    file: TomlFile | None = None

    @property
    def subject(self) -> str:
        """The name for a person. In a file, finding the line is slow."""
        return f"{self.file.place(self.name)}: {self.name}" if self.file else self.name


def load(sources: Sources = _ENVIRONMENT) -> Settings:
    """Return the settings; see `read`. Raises `ConfigError` with all problems if there are any."""
    reading = read(sources)
    if reading.problems:
        raise ConfigError(*reading.problems)
    return reading.settings


def read(sources: Sources = _ENVIRONMENT) -> Reading:
    """Read all settings: from flags, then the environment, then the file, then the defaults."""
    problems: list[str] = []
    remarks: list[str] = []
    file = _opened(sources.file, problems)
    is_incomplete = sources.file is not None and file is None
    given = {
        **dict(_of_file(file, problems)),
        **dict(_of_environment(sources.is_foreign, problems, remarks)),
        **{name: _Value(text, "flag", f"--{name.replace('_', '-')}") for name, text in sources.flags.items()},
    }
    errors = _errors({name: value.text for name, value in given.items()})
    # A file that cannot be read may have the settings that are missing.
    shown = [each for each in errors if not (is_incomplete and each["type"] == "missing")]
    problems += [_problem(each, given.get(_field(each))) for each in shown]
    wrong = {_field(each) for each in errors}
    valid = {name: value.text for name, value in given.items() if name not in wrong}
    settings = Settings.model_validate({"upstream_url": _NO_UPSTREAM, **valid}, context=_EACH_ALONE)
    # A conflict with a wrong value would be a second line about the same mistake.
    wrong_variables = [PREFIX + name.upper() for name in wrong]
    conflicts = [] if is_incomplete else _conflicts(settings)
    problems += [_as_given(each, given) for each in conflicts if not any(name in each for name in wrong_variables)]
    origins = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    return Reading(settings, origins, given, tuple(problems), tuple(remarks))


def _as_given(problem: str, given: Mapping[str, _Value]) -> str:
    subject, colon, rest = problem.partition(": ")
    value = given.get(subject.removeprefix(PREFIX).lower())
    return f"{value.subject if value else subject}{colon}{_VARIABLE.sub(lambda found: _option(found, given), rest)}"


def _option(variable: re.Match[str], given: Mapping[str, _Value]) -> str:
    value = given.get(variable[1].lower())
    return value.subject if value and value.source == "flag" else variable[0]


def _of_environment(
    is_foreign: Callable[[str], bool], problems: list[str], remarks: list[str]
) -> Iterator[tuple[str, _Value]]:
    variables = {PREFIX + name.upper(): name for name in Settings.model_fields}
    # Case-insensitive, so that a lower-case name is reported instead of ignored.
    for variable, text in sorted(os.environ.items()):
        if variable in variables:
            yield variables[variable], _Value(text, "environment", variable)
        elif variable.upper().startswith(PREFIX):
            meant = hints.nearest(variable[len(PREFIX) :], (name.removeprefix(PREFIX) for name in variables))
            fix = f"did you mean {PREFIX}{meant}?" if meant else "docs/reference/settings.md lists all"
            if not is_foreign(variable):
                problems.append(f"{variable}: there is no such setting; {fix}")
            elif meant:
                remarks.append(f"{variable}: is for the commands that call a gateway, and not used here; {fix}")


def _opened(path: Path | None, problems: list[str]) -> TomlFile | None:
    try:
        return TomlFile.read(path) if path else None
    except FileNotFoundError:
        problems.append(f"{path}: does not exist; check the path of --config")
    except ConfigError as error:
        problems.extend(error.args)
    return None


def _of_file(file: TomlFile | None, problems: list[str]) -> Iterator[tuple[str, _Value]]:
    if file is None:
        return
    for name, value in file.values.items():
        given = _Value(_text(value) or "", "file", name, file)
        if name not in Settings.model_fields:
            meant = hints.nearest(name.lower().removeprefix(PREFIX.lower()), Settings.model_fields)
            problems.append(
                f"{given.subject}: there is no such setting; "
                + (f"did you mean {meant}?" if meant else "docs/reference/settings.md lists all")
            )
        elif Settings.model_fields[name].annotation is bool and isinstance(value, str):
            problems.append(f"{given.subject}: must be true or false; leave out quotes")
        elif _text(value) is None:
            problems.append(f"{given.subject}: must be a text, a number, true or false")
        else:
            yield name, given


def _text(value: Any) -> str | None:
    """Return a value of a file as it would be in the environment, or None if no setting has such a value."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return str(value) if isinstance(value, str | int | float) else None
    except ValueError:
        # A hexadecimal number with more digits than Python writes.
        return None


def _errors(values: Mapping[str, str]) -> list[ErrorDetails]:
    try:
        Settings.model_validate(values, context=_EACH_ALONE)
    except ValidationError as error:
        return error.errors()
    return []


def _field(error: ErrorDetails) -> str:
    return str(error["loc"][0])


def _problem(error: ErrorDetails, given: _Value | None) -> str:
    field = _field(error)
    variable = PREFIX + field.upper()
    subject = given.subject if given else variable
    if error["type"] == "missing":
        return f"{subject}: required, but not set; set it, or give --{field.replace('_', '-')}"
    value = str(error["input"])
    got = "" if variable in UNQUOTED else f" (got {value[:MAX_QUOTED_CHARACTERS]!r})"
    fix = _fix(field, value)
    return f"{subject}: {_demand(error, field)}{got}{f'; write {fix}' if fix else ''}"


def _demand(error: ErrorDetails, field: str) -> str:
    """Return what a value must be, in our words instead of pydantic's."""
    limits = error.get("ctx", {})
    words = {
        "bool_parsing": "must be true or false",
        "int_parsing": "must be a whole number",
        "int_parsing_size": "must be a whole number of fewer digits",
        "int_from_float": "must be a whole number",
        "float_parsing": f"must be a number{' of seconds' if field.endswith('_seconds') else ''}",
        "finite_number": "must be a finite number",
        "greater_than_equal": f"must be at least {limits.get('ge', 0):g}",
        "less_than_equal": f"must be at most {limits.get('le', 0):,.15g}".replace(",", ""),
        "literal_error": f"must be {_listed(choices(field))}",
    }
    problem = error["msg"].removeprefix("Value error, ")
    return words.get(error["type"], f"{problem[:1].lower()}{problem[1:]}")


def _listed(choices: tuple[str, ...]) -> str:
    return " or ".join([", ".join(choices[:-1]), *choices[-1:]])


def choices(field: str) -> tuple[str, ...]:
    """Return the words of a setting that has only some, or nothing."""
    of_type = Settings.model_fields[field].annotation
    if of_type is bool:
        return ("true", "false")
    # The choices of an optional setting are within a union.
    choices = [each for kind in get_args(of_type) for each in get_args(kind) or (kind,)]
    return tuple(each for each in choices if isinstance(each, str))


def _fix(field: str, value: str) -> str | None:
    """Return the valid value that was meant, or None if that is not clear."""
    meant = hints.nearest(value.strip(), choices(field))
    number = None if meant else hints.plain_number(value, seconds=field.endswith("_seconds"))
    if number is not None:
        meant = f"{number:.15g}"
    return meant if meant is not None and not any(_field(each) == field for each in _errors({field: meant})) else None
