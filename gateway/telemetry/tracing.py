"""The tracer that the environment asks for. OpenTelemetry is imported only if an endpoint is set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.errors import ConfigError
from gateway.rpc.tracing import NoopTracer

if TYPE_CHECKING:
    from gateway.rpc.tracing import Tracer


# OpenTelemetry's own variables; those of traces stand above those of all signals.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# Of both kinds, too.
FILES = (
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
)
# The ends of names whose values may hold a secret.
SHY = ("HEADERS", "ENDPOINT")
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
OFF = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}


def from_environment() -> Tracer:
    """What OpenTelemetry's standard variables ask for. Raises `ConfigError`."""
    if not _first(ENDPOINTS) or any(os.environ.get(name, "").strip().lower() == off for name, off in OFF.items()):
        return NoopTracer()
    _check_variables()
    try:
        return _otlp_tracer()
    except Exception as error:  # noqa: BLE001 - the SDK raises anything, also while it is imported
        # Their text may quote a header, which may be a secret.
        why = f"the exporter of traces cannot use it ({type(error).__name__}); correct or unset it"
        raise ConfigError(f"{_at_fault()}: {why}") from None


def _check_variables() -> None:
    for name in ENDPOINTS:
        if (value := os.environ.get(name, "").strip()) and not _is_endpoint(value):
            # Not quoted, because it may hold a password.
            raise ConfigError(
                f"{name}: it is not http://HOST:PORT, https://HOST:PORT or HOST:PORT; correct or unset it"
            )
    for name in TIMEOUTS:
        if os.environ.get(name, "").strip().startswith("-"):
            raise ConfigError(f"{name}={os.environ[name][:100]!r}: a time limit is above 0; correct or unset it")
    for name in PROTOCOLS:
        if os.environ.get(name, "grpc") != "grpc":
            raise ConfigError(f"{name}: traces are exported by grpc only")
    for name in (*FILES, *(name.replace("OTLP_", "OTLP_TRACES_") for name in FILES)):
        # The exporter would only log it, and export nothing.
        if (path := os.environ.get(name)) and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{name}: {path!r} is no file that can be read; correct or unset it")


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        # The port is checked when it is read.
        return parts.scheme in ("", "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _otlp_tracer() -> Tracer:
    # Here, because the import takes as long as the rest of the start.
    from gateway.telemetry.otel import OtlpTracer

    return OtlpTracer()


def _at_fault() -> str:
    """Return the variable without which a tracer can be made, and its value; the process does not start after this."""
    for name in sorted(name for name in os.environ if name.startswith("OTEL_")):
        value = os.environ.pop(name)
        try:
            _otlp_tracer()
        except Exception:  # noqa: BLE001, S112 - it is another one
            continue
        finally:
            os.environ[name] = value
        return name if name.endswith(SHY) else f"{name}={value[:100]!r}"
    return "OTEL_*"


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")
