"""The read function of a poll loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.rpc.codec.events import JobState
from gateway.upstream import LastRead, RequestContext

if TYPE_CHECKING:
    from gateway.clock import Clock, PauseTimeout
    from gateway.rpc.call import Call
    from gateway.upstream import RestClient

_log = structlog.get_logger()


class JobPoller:
    """Reads a job at each call, with the credential of the gRPC call that started the loop, and logs the job's end."""

    def __init__(self, rest: RestClient, uid: int, call: Call, clock: Clock) -> None:
        # A loop may outlive the call that started it, so it keeps only these parts of the call.
        self._context = call.request_context
        self._span = call.span
        self._ids = call.ids
        self._rest = rest
        self._uid = uid
        self._clock = clock
        self._started_at = clock.monotonic()
        self._polls = 0
        self._last = LastRead()

    async def __call__(self, pause: PauseTimeout) -> JobState:
        """Read the job once; see `RequestContext` for `pause`. Raises `UpstreamError`."""
        self._polls += 1
        with self._span.poll(self._uid, self._context.headers) as headers:
            context = RequestContext(self._context.credential, headers, pause)
            state = JobState(await self._rest.get(self._uid, context, self._last))
        if state.job.done:
            _log.info(
                "job.ended",
                uid=self._uid,
                status=state.job.status.name,
                seconds=round(self._clock.monotonic() - self._started_at, 6),
                polls=self._polls,
                **self._ids,
            )
        return state
