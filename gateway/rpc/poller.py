"""What a loop of the hub polls: one job, read for the call that began the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.rpc.codec.events import JobState
from gateway.upstream import RequestContext

if TYPE_CHECKING:
    from gateway.clock import Clock, PauseTimeout
    from gateway.rpc.call import Call
    from gateway.upstream import RestClient

_log = structlog.get_logger()


class JobPoller:
    """Reads job `uid` at each call, and logs a line when it shows the job's end."""

    def __init__(self, rest: RestClient, uid: int, call: Call, clock: Clock) -> None:
        # A loop may outlive the call that began it, and keeps no more of it than this.
        self._context = call.request_context
        self._span = call.span
        self._ids = call.ids
        self._rest = rest
        self._uid = uid
        self._clock = clock
        self._began = clock.monotonic()
        self._polls = 0

    async def __call__(self, pause: PauseTimeout) -> JobState:
        """One poll; `pause` stops the time that it is given. Raises `UpstreamError`."""
        self._polls += 1
        with self._span.poll(self._uid, self._context.headers) as headers:
            context = RequestContext(self._context.credential, headers, pause)
            state = JobState(await self._rest.get(self._uid, context))
        if state.job.done:
            _log.info(
                "job.ended",
                uid=self._uid,
                status=state.job.status.name,
                seconds=round(self._clock.monotonic() - self._began, 6),
                polls=self._polls,
                **self._ids,
            )
        return state
