"""Traces, for whoever collects them: nothing of OpenTelemetry is imported unless an endpoint is set."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gateway.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from grpc import StatusCode

    Headers = Mapping[str, str]

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
OFF = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}

# W3C Trace Context: version, trace, parent, flags, and what later versions may add.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class CallSpan(Protocol):
    """The span of one call, from its arrival to its end, and of what is done on its behalf.

    `trace_id` is 32 hexadecimal digits, or empty where the call is part of no trace.
    """

    trace_id: str

    def onward(self, headers: Headers) -> Headers:
        """`headers` of the caller, as an upstream request made in this span bears them."""

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        """A span for one POST, within this one; gives its headers, and ends as its context does."""

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        """A span for one poll, in a trace of its own that links to this one, which may have ended; else as that."""

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        """The call has ended: `reason` is from the table of errors, or empty."""


class Tracer(Protocol):
    """Begins spans."""

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        """The span of a call that continues the trace of its caller, where `traceparent` names one."""

    async def aclose(self) -> None:
        """Hands on what is left, within about a second."""


class _NoSpan:
    """No span: what the caller sent passes through."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id

    def onward(self, headers: Headers) -> Headers:
        return headers

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        return nullcontext(headers)

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        del uid
        return nullcontext(headers)

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        pass


class Untraced:
    """Begins no spans."""

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        """No span; the trace's id is read all the same, for the log."""
        del method
        match = _TRACEPARENT.fullmatch(traceparent or "")
        return _NoSpan(match[1] if match else "")

    async def aclose(self) -> None:
        """There is nothing to hand on."""


def from_environment() -> Tracer:
    """What OpenTelemetry's standard variables ask for. Raises `ConfigError`."""
    if not _first(ENDPOINTS) or any(os.environ.get(name, "").strip().lower() == off for name, off in OFF.items()):
        return Untraced()
    for name in PROTOCOLS:
        if os.environ.get(name, "grpc") != "grpc":
            raise ConfigError(f"{name}: traces are exported by grpc only")
    for name in (*FILES, *(name.replace("OTLP_", "OTLP_TRACES_") for name in FILES)):
        # The exporter would only log it, and export nothing.
        if (path := os.environ.get(name)) and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise ConfigError(f"{name}: {path!r} is no file that can be read; correct or unset it")
    try:
        return _otlp_tracer()
    except Exception as error:  # noqa: BLE001 - the SDK raises anything, also while it is imported
        # Their text may quote a header, which may be a secret.
        why = f"the exporter of traces cannot use it ({type(error).__name__}); correct or unset it"
        raise ConfigError(f"{_at_fault()}: {why}") from None


def _otlp_tracer() -> Tracer:
    # Here, because the import takes as long as the rest of the start.
    from gateway.otel import OtlpTracer

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
