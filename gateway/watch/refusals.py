"""When a refusal counts: one alone may be a blip, or come before the upstream shows a job that was just sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import UpstreamStatusError

if TYPE_CHECKING:
    from gateway.errors import UpstreamError
    from gateway.watch.sent_jobs import SentJob

# A job counts as just sent for so long.
JUST_SENT_SECONDS = 60.0
# Refusals of a job that was just sent are transient for so long, from the first of them.
GRACE_SECONDS = 15.0


class Refusals:
    """Judge the refusals among the requests for one job.

    `sent` is the job as it was sent here, or None. `exists`: the job is known to exist, so a refusal counts only once
    the next certain answer is the same. Transient failures between the two say nothing about it.
    """

    __slots__ = ("_grace_until", "_sent", "_unconfirmed", "confirming", "exists")

    def __init__(self, sent: SentJob | None, *, exists: bool) -> None:
        self.exists = exists or sent is not None
        self._sent = sent
        self._grace_until: float | None = None
        self._unconfirmed: int | None = None
        # Whether the next request is to confirm a refusal, and so comes soon.
        self.confirming = False

    def succeeded(self) -> None:
        """Take note of a request that went well: the job exists, and what was refused before does not count."""
        self.exists = True
        self._grace_until = self._unconfirmed = None
        self.confirming = False

    def count(self, error: UpstreamError, now: float) -> bool:
        """Return whether a failed request settles that the job cannot be had. `now` is in seconds of the clock."""
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
    """Return whether a single request was refused only because its job was sent a moment ago."""
    refused = isinstance(error, UpstreamStatusError) and not error.transient
    return refused and sent is not None and now < sent.sent_at + GRACE_SECONDS
