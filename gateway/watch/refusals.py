"""Decisions on refusals: one alone may be a mistake, or the upstream may not show a job yet that was just sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import UpstreamStatusError

if TYPE_CHECKING:
    from gateway.errors import UpstreamError
    from gateway.watch.sent_jobs import SentJob

# The time for which a job counts as just sent.
JUST_SENT_SECONDS = 60.0
# The time for which refusals of a job that was just sent are transient, from the first of them.
GRACE_SECONDS = 15.0


class Refusals:
    """Decides which refusal of requests for one job counts.

    If the job is known to exist (`exists`), a refusal counts when the next certain response is the same. Transient
    failures in between do not matter. `sent` is the job if it was sent by this process.
    """

    __slots__ = ("_grace_until", "_sent", "_unconfirmed", "confirming", "exists")

    def __init__(self, sent: SentJob | None, *, exists: bool) -> None:
        self.exists = exists or sent is not None
        self._sent = sent
        self._grace_until: float | None = None
        self._unconfirmed: int | None = None
        # Whether the next request confirms a refusal, and is sent soon.
        self.confirming = False

    def succeeded(self) -> None:
        """Record a successful request: the job exists, and earlier refusals do not count."""
        self.exists = True
        self._grace_until = self._unconfirmed = None
        self.confirming = False

    def count(self, error: UpstreamError, now: float) -> bool:
        """Record a failed request; return whether the refusal counts. `now` is in seconds of the clock."""
        self.confirming = False
        if error.transient or not isinstance(error, UpstreamStatusError):
            return not error.transient
        confirmed = self._unconfirmed == error.http_status
        self._unconfirmed = error.http_status
        if self._in_grace(now):
            return False
        self.confirming = self.exists and not confirmed
        return not self.confirming

    def _in_grace(self, now: float) -> bool:
        if self._grace_until is None:
            just_sent = self._sent is not None and now - self._sent.sent_at <= JUST_SENT_SECONDS
            self._grace_until = now + GRACE_SECONDS if just_sent else now
        return now < self._grace_until


def is_uncertain(sent: SentJob | None, error: UpstreamError, now: float) -> bool:
    """Return whether a request may have been refused only because its job was just sent."""
    refused = isinstance(error, UpstreamStatusError) and not error.transient
    return refused and sent is not None and now < sent.sent_at + GRACE_SECONDS
