"""One submission in flight, and the calls that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.models import Job


class SubmissionResult(msgspec.Struct, frozen=True):
    """The job that a submission made.

    `job` is the job in the response to the POST. It is None for an earlier submission, unless its job had ended and has
    no uid: then it is the part of it that was stored. `replayed` says that this call did not cause the POST.
    """

    uid: int
    job: Job | None
    replayed: bool = False


class Submission:
    """A submission in flight, shared by all calls with its request id. It continues if they leave.

    `callers` is the number of calls that wait for it now.
    """

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.callers = 0
        self.task: asyncio.Task[SubmissionResult]

    def start(self, work: Coroutine[None, None, SubmissionResult]) -> None:
        """Run `work` as the task of this submission."""
        self.task = asyncio.get_running_loop().create_task(work)


class SubmissionCall:
    """The part of one call in a submission. The call is within this context for as long as it waits.

    `repeats` says that another call began the submission. `on_replayed` is called once if the outcome is that of an
    earlier submission.
    """

    def __init__(self, submission: Submission, on_replayed: Callable[[], None], *, repeats: bool) -> None:
        self._submission = submission
        self._on_replayed: Callable[[], None] | None = on_replayed
        self._repeats = repeats

    @property
    def task(self) -> asyncio.Task[SubmissionResult]:
        """The task of the submission, which must not be cancelled."""
        return self._submission.task

    def __enter__(self) -> Self:
        self._submission.callers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._submission.callers -= 1

    async def outcome(self) -> SubmissionResult:
        """Wait for the result. Cancelling this does not cancel the submission.

        Raises:
            SubmitOutcomeUnknown: A job may have been made.
            RequestIdReused: The request id belongs to another request.
            RequestIdsExhausted: There is no room for another request id.
            StateUnavailable: The store cannot be reached, and nothing was sent.
            UpstreamError: The submission was certainly refused.
        """
        result = await asyncio.shield(self.task)
        if self._repeats:
            result = replace(result, replayed=True)
        if result.replayed and self._on_replayed is not None:
            self._on_replayed()
            self._on_replayed = None
        return result
