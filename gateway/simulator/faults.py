"""Faults on demand: wrong responses and broken connections that a client must handle.

A job's `params.faults`, `Simulator.inject` and `POST /faults/` use the same format. The fields of a fault:

=============  ==================================================  =======  ======================================
field          value                                               default  meaning
=============  ==================================================  =======  ======================================
`kind`         a name below, or an HTTP status, 200 to 599         needed   the failure
`on`           any, submit, after_submit, poll, cancel, session    any      the requests that can fail
`times`        0 or more                                           1        how many of them fail; 0: all
`after`        0 or more                                           0        how many of them succeed first
`retry_after`  integer (seconds), "date:SECONDS", other text       none     the Retry-After header: seconds, an
                                                                            HTTP date so many seconds from now, or
                                                                            the text itself
`headers`      object of string                                    `{}`     headers to add or replace
`body`         any JSON                                            by kind  body of a response with an HTTP status
=============  ==================================================  =======  ======================================

`submit`: the POST is read and then fails; no job is created. `after_submit`: the job is created, and the fault
replaces the response. `any` includes all requests, but not `after_submit`. Faults are tried in the order in which
they were added, the simulator's before the job's. A request that meets one fault does not count for the next
ones. In `params.faults`, a fault on the submission concerns only the POST that carries it.

Kinds with a complete response:

============  =================================================================================================
kind          response
============  =================================================================================================
a status      JSON: field errors for 400, else `{"detail": ...}`; `body` replaces it
`html`        502 with an HTML page of a proxy
`redirect`    302 to `/redirected/` at another name of the simulator's host (`headers` can replace `Location`)
`not_json`    a success whose body is text
`list`        a success whose body is a JSON array
`null`        a success whose body is `null`
`truncated`   a success whose JSON stops in the middle, with a matching Content-Length
`other_uid`   a success with another job, which has ended
`no_uid`      a success without a uid
`empty`       a success without a body
`gzip_bomb`   a success with 200 MB of JSON in 200 KB of gzip, even if the client does not accept gzip
============  =================================================================================================

`retry_after` and `headers` apply to these. Kinds without a complete response, after which the connection is closed
or unusable:

===============  ==============================================================================================
kind             the client sees
===============  ==============================================================================================
`reset`          the connection reset, after its request was read
`close`          the connection closed without a response, after its request was read
`half_body`      half of the promised body, then the connection closed
`hang`           nothing, until it disconnects
`swallow`        half of the promised body, then nothing, until it disconnects
`two_lengths`    a response with two different Content-Length headers, then the connection closed
`header_flood`   a response with 1 MB of headers, then the connection closed
===============  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Raw

ResponseKind: TypeAlias = Literal[
    "html",
    "redirect",
    "not_json",
    "list",
    "null",
    "truncated",
    "other_uid",
    "no_uid",
    "empty",
    "gzip_bomb",
]
WireKind: TypeAlias = Literal["reset", "close", "half_body", "hang", "swallow", "two_lengths", "header_flood"]
Moment: TypeAlias = Literal["submit", "after_submit", "poll", "cancel", "session"]

_HeaderText = Annotated[str, Meta(pattern=r"^[\x20-\x7e]*$")]
_HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$")]
_DATE = "date:"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault; the module's docstring explains its fields."""

    kind: ResponseKind | WireKind | Annotated[int, Meta(ge=200, le=599)]
    on: Literal["any"] | Moment = "any"
    times: Annotated[int, Meta(ge=0)] = 1
    after: Annotated[int, Meta(ge=0)] = 0
    retry_after: int | _HeaderText | None = None
    headers: dict[_HeaderName, _HeaderText] = {}
    body: Raw = Raw(b"")

    def __post_init__(self) -> None:
        """Check the form of `retry_after`.

        Raises:
            ValueError: `retry_after` begins with `date:`, and no integer follows.

        """
        self.retry_delay()

    def retry_delay(self) -> int | None:
        """Return how many seconds from now the HTTP date in Retry-After must be, or None for another form."""
        if not isinstance(self.retry_after, str) or not self.retry_after.startswith(_DATE):
            return None
        return int(self.retry_after.removeprefix(_DATE))


def is_wire_kind(kind: object) -> bool:
    """Return True if a kind of fault has no complete response."""
    return kind in get_args(WireKind)


class FaultPlan:
    """The pending faults, in order, each with the number of requests that it has seen."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._pending = [(fault, 0) for fault in faults]

    def add(self, fault: Fault) -> None:
        """Append a fault."""
        self._pending.append((fault, 0))

    def clear(self) -> None:
        """Remove all faults."""
        self._pending.clear()

    def take(self, moment: Moment) -> Fault | None:
        """Return the fault of a request and count it, or return None if the request succeeds."""
        for index, (fault, seen) in enumerate(self._pending):
            if fault.on != moment and (fault.on != "any" or moment == "after_submit"):
                continue
            self._pending[index] = (fault, seen + 1)
            if seen < fault.after:
                continue
            if fault.times and seen + 1 >= fault.after + fault.times:
                del self._pending[index]
            return fault
        return None
