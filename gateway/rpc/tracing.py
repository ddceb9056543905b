"""What the gateway asks of a tracer, and a tracer that does nothing."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from grpc import StatusCode

    Headers = Mapping[str, str]


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


class _NoopCallSpan:
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


class NoopTracer:
    """Begins no spans."""

    def call(self, method: str, traceparent: str | None) -> CallSpan:
        """No span; the trace's id is read all the same, for the log."""
        del method
        match = _TRACEPARENT.fullmatch(traceparent or "")
        return _NoopCallSpan(match[1] if match else "")

    async def aclose(self) -> None:
        """There is nothing to hand on."""
