"""The settings of `serve`: one validated, frozen object, from the environment (see docs/reference/settings.md)."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self


PREFIX = "JOBGATEWAY_"
# Variables of the command line's client side, which `serve` meets in the same shell.
CLIENT_VARIABLES = frozenset({"JOBGATEWAY_TARGET", "JOBGATEWAY_TOKEN"})

# Variables whose value is not repeated: it may hold a password.
SHY = frozenset({"JOBGATEWAY_UPSTREAM_URL", "JOBGATEWAY_UPSTREAM_PROXY_URL", "JOBGATEWAY_STATE_URL"})

# Host names as resolvers take them; the empty label and the one of more than 63 characters fail only at the first call.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)


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
        raise ValueError("it is HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return value


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _file(value: Path | None) -> Path | None:
    # pydantic takes an empty text for the folder that the process runs in.
    if value is not None and not value.name:
        raise ValueError("it is the path of a file")
    return value


_File = Annotated[Path | None, AfterValidator(_file)]

# Scheme, host, port, path.
_URL = re.compile(r"https?://(\[[^\]]*\]|[^/:@?#\[\]]*)(?::(\d{1,5}))?(?:/[!-~]*)?", re.IGNORECASE | re.ASCII)


def _http_url(value: str) -> str:
    if any(each in value for each in "@?#"):
        raise ValueError("it has neither user nor query nor fragment: callers' credentials come with their calls")
    if re.search(r"/\.\.?(/|$)|%|\\|;", value):
        raise ValueError("its path must not hold . or .. as a segment, nor % \\ or ;, which not all read alike")
    match = _URL.fullmatch(value)
    if match is None or not _is_host(match[1]) or int(match[2] or 0) > 65535:
        raise ValueError("it is an http or https URL, such as https://cloud.viktor.ai/api")
    return value


def _proxy_url(value: str) -> str:
    match = _URL.fullmatch(value)
    if match is None or value.count("/") > 2 or not value.lower().startswith("http:") or not _is_host(match[1]):
        raise ValueError("it is http://HOST:PORT, without user, password and path")
    return value


# User and password, hosts with ports, database, options.
_REDIS = re.compile(
    r"rediss?://(?:[!-.0-9:;<=>A-Z\[\]^_`a-z{|}~%]*@)?(\[[^\]]*\]|[^/:@?#\[\]]*)(?::(\d{1,5}))?(?:/(\d{0,9}))?"
    r"(?:\?([!-\"$-~]*))?",
    re.IGNORECASE | re.ASCII,
)
_SQLITE = re.compile(r"sqlite:///(/?[^?#\0]*[^?#\0/])", re.IGNORECASE)


def _state_url(value: str) -> str:
    if value.lower() == "memory:" or _SQLITE.fullmatch(value):
        return value
    match = _REDIS.fullmatch(value)
    if match is None or not _is_host(match[1]) or int(match[2] or 0) > 65535:
        raise ValueError("use memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE or rediss://HOST:PORT/DATABASE")
    return value


class Settings(BaseSettings):
    """All settings; each field is the variable `JOBGATEWAY_` and its name in capitals. Seconds may be fractional."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Nothing but what is given by name: only `load` reads the environment."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    upstream_url: Annotated[str, AfterValidator(_http_url)] = Field(
        description="Base URL of the REST API, such as `https://cloud.viktor.ai/api`. Required."
    )
    upstream_proxy_url: Annotated[str, AfterValidator(_proxy_url)] | None = Field(
        None, description="HTTP proxy to the upstream, as `http://HOST:PORT`."
    )
    listen: Annotated[str, AfterValidator(_listen)] = Field(
        "127.0.0.1:50051", description="gRPC address, as HOST:PORT. Port 0 selects a free one."
    )
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
    max_watches: int = Field(20_000, ge=1, le=100_000, description="Watches (`WatchJob`, `RunJob`) in flight.")
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
        "call too. Calls over the limit are rejected.",
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
    admin_listen: Annotated[str, AfterValidator(_listen)] = Field(
        "127.0.0.1:9464",
        description="HTTP address of `/metrics`, `/livez` and `/readyz`, as HOST:PORT. Port 0 selects a free one.",
    )
    reflection: bool = Field(True, description="`false` turns server reflection off.")
    log_format: Literal["json", "text"] = Field(
        "json", description="`json` or `text`, one line per event on standard error."
    )

    @model_validator(mode="after")
    def _encrypted_off_the_machine(self) -> Self:
        cert, key, client_ca = (f"{PREFIX}TLS_{name}_FILE" for name in ("CERT", "KEY", "CLIENT_CA"))
        if self.tls_cert_file is not None and self.tls_key_file is None:
            raise ValueError(f"{key}: it is required with {cert}, and not set")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ValueError(f"{cert}: it is required with {key}, and not set")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError(f"{cert}: it is required with {client_ca}, and not set")
        if self.tls_cert_file is None and not (self.allow_plaintext or _is_loopback(self.listen)):
            raise ValueError(
                f"{PREFIX}LISTEN: {self.listen} is not loopback, and tokens would cross the network in plain text: set "
                f"{cert} and {key}, or {PREFIX}ALLOW_PLAINTEXT=true where a mesh sidecar ends TLS in front of it"
            )
        return self

    @model_validator(mode="after")
    def _gateway_token_for_known_callers(self) -> Self:
        if self.upstream_token_file is None or self.tls_client_ca_file is not None or _is_loopback(self.listen):
            return self
        raise ValueError(
            f"{PREFIX}UPSTREAM_TOKEN_FILE: whoever reaches {self.listen} could use the gateway's token: set "
            f"{PREFIX}TLS_CLIENT_CA_FILE, so that callers show who they are, or listen on loopback"
        )

    @model_validator(mode="after")
    def _state_key_for_a_fleet(self) -> Self:
        if self.state_url.lower().startswith("redis") and self.state_key_file is None:
            raise ValueError(f"{PREFIX}STATE_KEY_FILE: it is required with a redis URL, and not set")
        return self

    @model_validator(mode="after")
    def _intervals(self) -> Self:
        if self.poll_interval_max_seconds < self.poll_interval_min_seconds:
            raise ValueError(
                f"{PREFIX}POLL_INTERVAL_MAX_SECONDS ({self.poll_interval_max_seconds:g}) is below "
                f"{PREFIX}POLL_INTERVAL_MIN_SECONDS ({self.poll_interval_min_seconds:g})"
            )
        return self

    @model_validator(mode="after")
    def _no_more_of_one_credential_than_of_all(self) -> Self:
        for name in ("max_calls", "max_watches"):
            of_all, of_one = getattr(self, name), getattr(self, f"{name}_per_credential")
            if of_one is not None and of_one > of_all:
                variable = PREFIX + name.upper()
                raise ValueError(
                    f"{variable}_PER_CREDENTIAL: {of_one} is above {variable} ({of_all}), which holds for all "
                    "credentials together: lower the one or raise the other"
                )
        return self


class _FromEnvironment(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """The environment, and nothing else."""
        del settings_cls, init_settings, dotenv_settings, file_secret_settings
        return (env_settings,)


def load() -> Settings:
    """The settings in the environment. Raises `ConfigError` for one that is missing, wrong or unknown."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    for name in sorted(os.environ):
        # In any case of letters, for pydantic would read one in small letters all the same.
        if name.upper().startswith(PREFIX) and name not in known:
            raise ConfigError(f"{name}: there is no such setting; docs/reference/settings.md lists them")
    try:
        return _FromEnvironment()
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise ConfigError(why) from None
        name = PREFIX + str(first["loc"][0]).upper()
        if first["type"] == "missing":
            raise ConfigError(f"{name}: it is required, and not set") from None
        value = "" if name in SHY else f" (it is {str(first['input'])[:100]!r})"
        raise ConfigError(f"{name}: {why[0].lower()}{why[1:]}{value}") from None
