"""All errors of a call, as one tree of exceptions.

GatewayError                        only its subclasses are raised
├── RequestError                    the request is invalid; nothing was sent upstream
│   ├── RequestInvalid              a field has an invalid value
│   │   ├── RequestIdReused         the request_id belongs to another request
│   │   └── AlreadyWatched          the job is being watched on the same stream
│   ├── RequestTooLarge             the request is larger than the gateway accepts
│   ├── CredentialInvalid           there is no usable credential
│   └── RequestIdsExhausted         the gateway cannot remember more request_ids now
├── UpstreamError                   one upstream request failed
│   ├── UpstreamStatusError         the response has an HTTP status that is no success
│   ├── UpstreamMalformed           the response does not follow the protocol
│   ├── UpstreamResponseTooLarge    the response is larger than the gateway accepts
│   ├── UpstreamTimeout             there was no response in time
│   ├── UpstreamConnectionLost      the connection broke after the request may have been read
│   ├── UpstreamUnreachable         there was no connection: the request was certainly not sent
│   └── GatewayOverloaded           this process ran out of memory, files or threads
├── SubmitOutcomeUnknown            a submission was sent, and it is unknown whether a job runs
├── UpstreamOutage                  the upstream failed for longer than a watch may wait
├── JobOverdue                      a watched job ran for longer than its timeout allows
├── NoStateYet                      no state of the job could be read so far
├── SlowConsumer                    a client did not read its stream while others waited for memory
├── ResultTooLarge                  the result does not fit the one message that the client asked for
├── StateUnavailable                the store of request ids cannot be used, and nothing was sent
├── LimitReached                    a load limit of the gateway was reached
├── Draining                        this process is stopping
└── InternalError                   a defect of the gateway

No message of an exception contains a credential.
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
    """The base of the tree; raise a subclass, `InternalError` if no other fits.

    Attributes:
        retry_after: The wait in seconds before a retry, None if no wait is known.
        quotes_others: Whether the message may quote the client or the upstream. Such a message goes to the client, and
            to no log and no store.
    """

    retry_after: float | None = None
    quotes_others = False


class InternalError(GatewayError):
    """A defect of the gateway; its cause is the unexpected exception, if there was one."""


class RequestError(GatewayError):
    """The request is invalid; nothing was sent upstream."""


class RequestInvalid(RequestError):
    """A field of the request, or a metadata entry, has an invalid value."""

    quotes_others = True

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violations = (FieldViolation(field, description),)

    def within(self, parent: str) -> Self:
        """Return the same error for a message that is the field `parent` of the request."""
        (violation,) = self.violations
        return type(self)(f"{parent}.{violation.field}", violation.description)


class RequestTooLarge(RequestError):
    """The request is larger than the gateway accepts."""


class CredentialInvalid(RequestError):
    """The call has no credential, more than one, or one that cannot be used."""


class RequestIdReused(RequestInvalid):
    """The request_id belongs to another request."""


class AlreadyWatched(RequestInvalid):
    """The job is being watched on the same stream."""


class RequestIdsExhausted(RequestError):
    """The gateway cannot remember more request_ids at the moment."""

    # A place becomes free when an id is 25 hours old. Without a wait, clients would take the error for a size limit.
    retry_after = 60.0


class UpstreamError(GatewayError):
    """One upstream request failed.

    Attributes:
        transient: Whether a later attempt may succeed.
        may_have_been_sent: Whether the upstream may have seen the request.
        throttled: Whether the upstream asked the gateway to slow down.
        http_status: The status of the response, None if there was none.
        job_shown: Whether a read right after the failure found the job.
        cause: The failure in short, of texts of this gateway and the system only, so that it may be logged.

    Args:
        message: The message.
        cause: The cause, if it is not the message.
    """

    transient = True
    may_have_been_sent = True
    throttled = False
    http_status: int | None = None
    job_shown = False

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message


class UpstreamStatusError(UpstreamError):
    """The upstream responded with an HTTP status that is no success.

    Attributes:
        violations: The fields that the response names.
        from_api: Whether the body is a JSON object, as the API's own responses are. Any other 4xx may be a proxy's
            page.
        certain: Whether the status says something about the job. A proxy's page does so only for a submission.
    """

    http_status: int
    # HTTP says that 408, 425 and 429 can be repeated (RFC 9110, 8470, 6585). Proxies send 444, 460 and 499 if they gave
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
        quotes_others: bool = True,
    ) -> None:
        # Pages of proxies are usual from 500 on.
        shown = "" if from_api or http_status >= 500 else " without a JSON object"
        cause = f"HTTP {http_status}{shown}"
        super().__init__(message, cause=cause)
        self.http_status = http_status
        self.violations = violations
        self.retry_after = retry_after
        self.throttled = http_status == 429
        self.quotes_others = quotes_others
        repeatable = http_status >= 500 or http_status in self.TRANSIENT_CLIENT_ERRORS
        self.from_api = from_api
        self.certain = from_api or repeatable
        self.transient = repeatable or not from_api

    def of_submission(self) -> Self:
        """Return this error as the response to a submission: any 4xx refuses it, also one from a proxy."""
        self.certain = True
        self.transient = self.http_status >= 500 or self.http_status in self.TRANSIENT_CLIENT_ERRORS
        return self


class UpstreamMalformed(UpstreamError):
    """The upstream's response does not follow the protocol."""

    def __init__(self, message: str, *, cause: str = "", http_status: int | None = None) -> None:
        super().__init__(message, cause=cause)
        self.http_status = http_status


class UpstreamResponseTooLarge(UpstreamError):
    """The upstream's response is larger than the gateway accepts."""

    transient = False


class UpstreamTimeout(UpstreamError):
    """The upstream did not respond in time."""


class UpstreamConnectionLost(UpstreamError):
    """The connection broke after the upstream may have read the request."""


class UpstreamUnreachable(UpstreamError):
    """No connection could be made, so the upstream has certainly not seen the request."""

    may_have_been_sent = False


class GatewayOverloaded(UpstreamError):
    """The gateway or its machine ran out of memory, file descriptors or threads; the upstream did not fail."""

    retry_after = 2.0

    def __init__(self, message: str, *, may_have_been_sent: bool) -> None:
        super().__init__(message)
        self.may_have_been_sent = may_have_been_sent


class SubmitOutcomeUnknown(GatewayError):
    """A submission was sent, and it is unknown whether a job runs; the message says what happened."""

    quotes_others = True

    def __init__(self, message: str, http_status: int | None) -> None:
        super().__init__(message)
        self.http_status = http_status


class UpstreamOutage(GatewayError):
    """The upstream failed for as long as a watch may wait; `last` is the last failure."""

    quotes_others = True

    def __init__(self, last: UpstreamError, seconds: float) -> None:
        super().__init__(f"the upstream has failed for {seconds:.0f} s; last failure: {last}")
        self.last = last
        self.http_status = last.http_status


class JobOverdue(GatewayError):
    """A watched job ran for longer than its timeout allows; it may have ended without a sign."""


class NoStateYet(GatewayError):
    """No state of the job could be read so far; a later call may read one."""


class SlowConsumer(GatewayError):
    """A client did not read its stream while others waited for the memory of its result; the stream can be resumed."""

    retry_after = 1.0


class ResultTooLarge(GatewayError):
    """The result does not fit the one message that the client asked for."""


class StateUnavailable(GatewayError):
    """The store of request ids cannot be used; nothing was sent."""

    retry_after = 1.0


class LimitReached(GatewayError):
    """A load limit of the gateway was reached; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Draining(GatewayError):
    """The gateway is stopping; `retry_after` (seconds) is the wait before a retry on another replica."""

    def __init__(self, *, retry_after: float) -> None:
        super().__init__("this gateway is shutting down; call again to reach another replica")
        self.retry_after = retry_after


class ConfigError(Exception):
    """Settings are invalid. Each of `args` is one line that names a variable and its problem."""

    def __str__(self) -> str:
        return "\n".join(self.args)
