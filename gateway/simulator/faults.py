"""Faults on demand: the answers, and the lack of answers, that a client has to live with.

The same vocabulary serves a job's `params.faults`, `Simulator.inject` and `POST /faults/`. One fault:

=============  ==================================================  =======  ======================================
field          value                                               default  meaning
=============  ==================================================  =======  ======================================
`kind`         a name below, or an HTTP status, 200 to 599         needed   what happens
`on`           any, submit, after_submit, poll, cancel, session    any      to which requests
`times`        0 or more                                           1        to how many of them; 0: for ever
`after`        0 or more                                           0        how many of them pass unharmed before
`retry_after`  integer (seconds), "date:SECONDS", other text       none     the Retry-After header: seconds, an
                                                                            HTTP date so many seconds from now, or
                                                                            the text itself
`headers`      object of string                                    `{}`     added to the answer, or replacing its
`body`         any JSON                                            by kind  body of an answer with an HTTP status
=============  ==================================================  =======  ======================================

`submit`: the POST is read and then fails; no job is made. `after_submit`: the job is made, and then the fault
stands in the place of its answer. `any` is every request but for `after_submit`. Faults are tried in the order
in which they were given, the simulator's before the job's; a request that one fault took is not counted by the
next. In `params.faults` a fault on the submission concerns this one POST.

Kinds with an answer:

============  =================================================================================================
kind          answer
============  =================================================================================================
a status      JSON: field errors for 400, else `{"detail": ...}`; `body` replaces it
`html`        502 with a proxy's page of HTML
`redirect`    302 to `/redirected/` at another name of the simulator's host (`headers` can replace `Location`)
`not_json`    a success whose body is text
`list`        a success whose body is a JSON array
`null`        a success whose body is `null`
`truncated`   a success whose JSON stops half-way, with a matching Content-Length
`other_uid`   a success that shows the end of another job
`no_uid`      a success that names no job
`empty`       a success without a body
`gzip_bomb`   a success of 200 MB of JSON in 200 KB of gzip, sent whatever encodings the client accepts
============  =================================================================================================

`retry_after` and `headers` apply to these. Kinds without a whole one, which always end or waste the connection:

===============  ==============================================================================================
kind             the client sees
===============  ==============================================================================================
`reset`          the connection reset, after its request was read
`close`          the connection closed without an answer, after its request was read
`half_body`      half of the promised body, then the connection closed
`hang`           nothing, for as long as it stays
`swallow`        half of the promised body, then nothing, for as long as it stays
`two_lengths`    an answer with two different Content-Length headers, then the connection closed
`header_flood`   an answer with 1 MB of headers, then the connection closed
===============  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Raw

AnswerKind: TypeAlias = Literal[
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

    kind: AnswerKind | WireKind | Annotated[int, Meta(ge=200, le=599)]
    on: Literal["any"] | Moment = "any"
    times: Annotated[int, Meta(ge=0)] = 1
    after: Annotated[int, Meta(ge=0)] = 0
    retry_after: int | _HeaderText | None = None
    headers: dict[_HeaderName, _HeaderText] = {}
    body: Raw = Raw(b"")

    def __post_init__(self) -> None:
        """Check what the types leave open.

        Raises:
            ValueError: `retry_after` begins with `date:` and no integer follows.

        """
        self.retry_delay()

    def retry_delay(self) -> int | None:
        """Return the seconds from now that an HTTP date in Retry-After is to name, None for another form."""
        if not isinstance(self.retry_after, str) or not self.retry_after.startswith(_DATE):
            return None
        return int(self.retry_after.removeprefix(_DATE))


def is_wire_kind(kind: object) -> bool:
    """Say whether a kind of fault has no whole answer."""
    return kind in get_args(WireKind)


class FaultPlan:
    """The faults to come, in order, and how many requests each has seen."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._pending = [(fault, 0) for fault in faults]

    def add(self, fault: Fault) -> None:
        """Put a fault behind those that are there."""
        self._pending.append((fault, 0))

    def clear(self) -> None:
        """Forget all faults."""
        self._pending.clear()

    def take(self, moment: Moment) -> Fault | None:
        """Return the fault of a request, which counts as one of its times, or None where the request passes."""
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
