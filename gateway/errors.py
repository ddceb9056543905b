"""Everything that can go wrong, as exceptions of our own.

GatewayError
├── RequestError               the caller's request is at fault; nothing was sent upstream
│   ├── RequestInvalid         a field holds what it must not
│   │   └── RequestIdReused    the request_id belongs to another request
│   ├── RequestTooLarge        it is larger than we take
│   ├── CredentialInvalid      there is no usable credential
│   └── RequestIdsExhausted    no more ids can be remembered now
├── UpstreamError              one upstream request did not give what was asked
│   ├── UpstreamStatusError       it answered with an HTTP status that is no success
│   ├── UpstreamMalformed      it answered with what is not the protocol
│   ├── UpstreamResponseTooLarge it answered with more than we take
│   ├── UpstreamTimeout       it did not answer in time
│   ├── UpstreamConnectionLost the connection broke, when the request may have been read
│   ├── UpstreamUnreachable    there was no connection: the request was certainly not sent
│   └── GatewayOverloaded      this process ran out of memory, files or threads
├── SubmitOutcomeUnknown       a submission was sent, and whether a job runs is not known
├── UpstreamOutage             a watch rode out failures for as long as it may
├── JobOverdue                 a watch saw the job run for longer than it may
├── NoStateYet                 no state of the job could be read so far
├── SlowConsumer                 a stream was not read while others waited for the memory of its result
├── ResultTooLarge             the result does not fit the one message that was asked for
├── LimitReached               one of our own limits of load
└── Draining                   this process is going away

No message of an exception holds a credential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request, as a dotted path, and what is wrong with it."""

    field: str
    description: str


class GatewayError(Exception):
    """The top of the tree. `retry_after` is a wait in seconds, where one is known.

    `quotes_others`: the message may hold what the caller or the upstream wrote, which is for the caller and for no log.
    """

    retry_after: float | None = None
    quotes_others = False


class RequestError(GatewayError):
    """The caller's request is at fault; nothing was sent upstream."""


class RequestInvalid(RequestError):
    """A field of the request, or a metadata entry, holds what it must not."""

    quotes_others = True

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violations = (FieldViolation(field, description),)

    def within(self, parent: str) -> Self:
        """The same, of a message that stands in the field `parent` of the request."""
        (violation,) = self.violations
        return type(self)(f"{parent}.{violation.field}", violation.description)


class RequestTooLarge(RequestError):
    """The request is larger than the gateway takes."""


class CredentialInvalid(RequestError):
    """The call has no credential, or not exactly one that can be used."""


class RequestIdReused(RequestInvalid):
    """The request_id belongs to another request."""


class RequestIdsExhausted(RequestError):
    """No more request_ids can be remembered at the moment."""

    # Places come free as ids turn 25 hours old; without a wait it would look like a limit of size.
    retry_after = 60.0


class UpstreamError(GatewayError):
    """One upstream request did not give what was asked.

    `transient`: a later attempt may go well. `may_have_been_sent`: the upstream may have seen the request. `throttled`:
    it asked us to slow down. `http_status`: what it answered, where it did. `job_shown`: a read right afterwards showed
    the job.
    """

    transient = True
    may_have_been_sent = True
    throttled = False
    http_status: int | None = None
    job_shown = False


class UpstreamStatusError(UpstreamError):
    """The upstream answered with an HTTP status that is no success; `violations` are the fields it named.

    `from_api`: the body is a JSON object, as the API's own answers are. Any other 4xx may be the page of a proxy, which
    proves nothing about the job: it is `certain` only as the answer to a submission.
    """

    http_status: int
    quotes_others = True
    # HTTP means 408, 425 and 429 to be tried again (RFC 9110, 8470, 6585). A proxy answers 444, 460 and 499 if it gave
    # the request up.
    TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429, 444, 460, 499})

    def __init__(
        self,
        http_status: int,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
        from_api: bool = True,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.violations = violations
        self.retry_after = retry_after
        self.throttled = http_status == 429
        meant_to_pass = http_status >= 500 or http_status in self.TRANSIENT_CLIENT_ERRORS
        self.from_api = from_api
        self.certain = from_api or meant_to_pass
        self.transient = meant_to_pass or not from_api

    def of_submission(self) -> Self:
        """Return the same as the answer to a submission: a 4xx refuses it, also one from a proxy."""
        self.certain = True
        self.transient = self.http_status >= 500 or self.http_status in self.TRANSIENT_CLIENT_ERRORS
        return self


class UpstreamMalformed(UpstreamError):
    """The upstream's answer is not the protocol."""

    def __init__(self, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status


class UpstreamResponseTooLarge(UpstreamError):
    """The upstream's answer is larger than the gateway takes."""

    transient = False


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""


class UpstreamConnectionLost(UpstreamError):
    """The connection broke when the upstream may have read the request."""


class UpstreamUnreachable(UpstreamError):
    """No connection came about: the upstream has certainly not seen the request."""

    may_have_been_sent = False


class GatewayOverloaded(UpstreamError):
    """This process or its machine ran out of memory, file descriptors or threads: no fault of the upstream's."""

    retry_after = 2.0

    def __init__(self, message: str, *, may_have_been_sent: bool) -> None:
        super().__init__(message)
        self.may_have_been_sent = may_have_been_sent


class SubmitOutcomeUnknown(GatewayError):
    """A submission was sent, and whether a job runs is not known; the message says what happened."""

    quotes_others = True

    def __init__(self, message: str, http_status: int | None) -> None:
        super().__init__(message)
        self.http_status = http_status


class UpstreamOutage(GatewayError):
    """A watch rode out transient failures for as long as it may; `last` is the last of them."""

    quotes_others = True

    def __init__(self, last: UpstreamError, seconds: float) -> None:
        super().__init__(f"the upstream has failed for {seconds:.0f} s, the last time so: {last}")
        self.last = last
        self.http_status = last.http_status


class JobOverdue(GatewayError):
    """A watch saw the job run for longer than its timeout allows; it may have ended without a sign."""


class NoStateYet(GatewayError):
    """No state of the job could be read so far; a later call may read one."""


class SlowConsumer(GatewayError):
    """A stream was not read while others waited for the memory of its result; it can be taken up again."""

    retry_after = 1.0


class ResultTooLarge(GatewayError):
    """The result does not fit the one message that was asked for."""


class LimitReached(GatewayError):
    """One of the gateway's own limits of load was reached; `retry_after` says when to try again."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Draining(GatewayError):
    """This process is going away; `retry_after` says when to try another one."""

    def __init__(self, *, retry_after: float) -> None:
        super().__init__("this gateway is going away")
        self.retry_after = retry_after


class ConfigError(Exception):
    """Settings are wrong. Each of `args` is one line that names a variable and its problem."""

    def __str__(self) -> str:
        return "\n".join(self.args)
