"""The protocol of tracers, and a tracer that does nothing."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from grpc import StatusCode

    Headers = Mapping[str, str]


# W3C Trace Context: version, trace, parent, flags, and fields of later versions.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class CallSpan(Protocol):
    """The span of one call, and the parent of the spans of its upstream requests.

    Attributes:
        trace_id: 32 hexadecimal digits, or "" if the call is not part of a trace.
    """

    trace_id: str

    def inject(self, headers: Headers) -> Headers:
        """Return the client's `headers` as upstream requests within this span carry them."""

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        """Return the context of a child span for one POST, which gives the headers of the request."""

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        """Return the context of a span for one poll, which gives the headers of the request.

        The span has its own trace with a link to this span, which may have ended.
        """

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        """End the span; `reason` is the one of the error, or ""."""


class Tracer(Protocol):
    """Starts spans."""

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        """Return the span of a call; it continues the client's trace if `traceparent` names one."""

    async def aclose(self) -> None:
        """Export the remaining spans, within about a second."""


class _NoopCallSpan:
    """No span: the client's headers pass through."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id

    def inject(self, headers: Headers) -> Headers:
        return headers

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        return nullcontext(headers)

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        del uid
        return nullcontext(headers)

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        pass


class NoopTracer:
    """A tracer without spans."""

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        """Return no span, but the trace's id, which the log has too."""
        del method
        match = _TRACEPARENT.fullmatch(traceparent or "")
        return _NoopCallSpan(match[1] if match else "")

    async def aclose(self) -> None:
        """Do nothing."""
