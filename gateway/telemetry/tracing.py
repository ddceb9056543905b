"""The tracer that the environment configures. OpenTelemetry is imported only if an endpoint is set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.errors import ConfigError
from gateway.rpc.tracing import NoopTracer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.rpc.tracing import Tracer


# OpenTelemetry's variables. Those of traces override those of all signals.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FILES = (
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
)
# Endings of names of variables whose values may hold a secret.
UNQUOTED = ("HEADERS", "ENDPOINT")
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
OFF = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}


def from_environment() -> Tracer:
    """Return the tracer that OpenTelemetry's standard variables configure.

    Raises:
        ConfigError: Variables are wrong. It has a line for each, except for those that only the exporter rejects.
    """
    if not _first(ENDPOINTS) or any(os.environ.get(name, "").strip().lower() == off for name, off in OFF.items()):
        return NoopTracer()
    if problems := list(_problems()):
        raise ConfigError(*problems)
    try:
        return _otlp_tracer()
    except Exception as error:  # noqa: BLE001 - the SDK raises all kinds of errors, also during its import
        # Their text may quote a header, which may be a secret.
        problem = f"the trace exporter rejects it ({type(error).__name__}); correct or unset it"
        raise ConfigError(f"{_wrong_variable()}: {problem}") from None


def _problems() -> Iterator[str]:
    for name in ENDPOINTS:
        if (value := os.environ.get(name, "").strip()) and not _is_endpoint(value):
            # Not quoted, because it may hold a password.
            yield f"{name}: must be http://HOST:PORT, https://HOST:PORT or HOST:PORT; correct or unset it"
    for name in TIMEOUTS:
        if os.environ.get(name, "").strip().startswith("-"):
            yield f"{name}: a timeout must be above 0 (got {os.environ[name][:100]!r}); correct or unset it"
    for name in PROTOCOLS:
        if (value := os.environ.get(name, "grpc")) != "grpc":
            yield f"{name}: must be grpc, the only supported protocol (got {value[:100]!r})"
    for name in (*FILES, *(name.replace("OTLP_", "OTLP_TRACES_") for name in FILES)):
        # Otherwise the exporter would only log the error, and export nothing.
        if (path := os.environ.get(name)) and not (Path(path).is_file() and os.access(path, os.R_OK)):
            yield f"{name}: {path!r} is not a readable file; correct or unset it"


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        # Reading the port validates it.
        return parts.scheme in ("", "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _otlp_tracer() -> Tracer:
    # Imported here, because the import takes as long as the rest of the start.
    from gateway.telemetry.otel import OtlpTracer

    return OtlpTracer()


def _wrong_variable() -> str:
    """Return the variable, and its value if it may be quoted, without which the exporter can be created."""
    for name in sorted(name for name in os.environ if name.startswith("OTEL_")):
        value = os.environ.pop(name)
        try:
            _otlp_tracer()
        except Exception:  # noqa: BLE001, S112 - another variable is wrong
            continue
        finally:
            os.environ[name] = value
        return name if name.endswith(UNQUOTED) else f"{name}={value[:100]!r}"
    return "OTEL_*"


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")
