"""The aiohttp handlers of the REST API and of `/faults/`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from gateway.simulator.fault_responses import fault_response
from gateway.simulator.faults import Fault, FaultPlan, Moment, is_wire_kind
from gateway.simulator.jobs import Job, Jobs
from gateway.simulator.json_fields import FieldErrors
from gateway.simulator.responses import Refused, bearer_token, json_response, refused, response
from gateway.simulator.submission import REFUSE, Submission, read_submission
from gateway.simulator.wire_faults import misbehave

_log = structlog.get_logger()

BASE_PATH = "/api"
"""The path below which the REST API is."""

REDIRECTED_PATH = "/redirected/"
"""The target of the fault `redirect`. No endpoint has this path."""

_MISSING = "404"  # the workspace and the entity that do not exist
_HOLD_STEP = 0.01  # seconds between two checks of a job while its POST waits
_REFUSAL = {
    "method_name": ["This value is not accepted."],
    "params": {"beam": {"length": ["Must be larger than 0."]}, "non_field_errors": ["The load is missing."]},
    "non_field_errors": ["The job is refused."],
}


class Endpoints:
    """The handlers, and the jobs and faults that they share.

    Args:
        tokens: the tokens that are accepted.
        clock: the time of jobs, in seconds.
        faults: the faults of all requests, in addition to those of a job.

    """

    def __init__(self, *, tokens: frozenset[str], clock: Callable[[], float], faults: FaultPlan) -> None:
        self._tokens = tokens
        self._clock = clock
        self._faults = faults
        self._jobs = Jobs(clock, time.time)

    def rotate_token(self, old: str, new: str) -> None:
        """Accept the token `new` instead of `old`, and give it the jobs of `old`."""
        self._tokens = self._tokens - {old} | {new}
        self._jobs.transfer(old, new)

    def has_ended(self, uid: str) -> bool:
        """Return whether there is a job with this uid that has ended."""
        job = self._jobs.get(uid)
        return job is not None and job.state(self._clock()).ended

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to the handlers."""
        entity = BASE_PATH + "/workspaces/{workspace_id}/entities/{id}"
        job = BASE_PATH + "/jobs/{uid}/"
        return [
            web.post(entity + "/jobs/", self.submit),
            web.post(entity + "/session/", self.session),
            web.get(job, self.poll, allow_head=False),
            web.delete(job, self.cancel),
            web.post("/faults/", self.add_faults),
            web.delete("/faults/", self.clear_faults),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Create a job."""
        if fault := self._faults.take("submit"):
            return await self._play(fault, request, "submit")
        owner = bearer_token(request, self._tokens)
        self._check_entity(request)
        if request.content_type != "application/json":
            raise refused(415, f'Unsupported media type "{request.content_type}" in request.')
        submission = _submission(await request.read())
        plan = FaultPlan(submission.parameters.faults)
        if fault := plan.take("submit"):
            return await self._play(fault, request, "submit")
        if submission.method_name == REFUSE:
            raise Refused(400, bytes(submission.parameters.errors) or msgspec.json.encode(_REFUSAL))
        job = self._jobs.create(submission, owner, plan)
        if fault := self._faults.take("after_submit") or plan.take("after_submit"):
            return await self._play(fault, request, "after_submit", job.uid)
        if submission.poll_result and await self._ends_in_time(job):
            return json_response(job.encoded(self._clock()))
        return json_response(_created(request, job), status=201)

    async def session(self, request: web.Request) -> web.StreamResponse:
        """Create an editor session."""
        if fault := self._faults.take("session"):
            return await self._play(fault, request, "session")
        bearer_token(request, self._tokens)
        self._check_entity(request)
        return json_response(msgspec.json.encode({"editor_session": str(uuid.uuid4())}))

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """Return a job to its owner, and 404 to all others."""
        if fault := self._faults.take("poll"):
            return await self._play(fault, request, "poll")
        owner = bearer_token(request, self._tokens)
        job = self._job(request)
        if job.owner != owner:
            raise refused(404, "Not found.")
        if fault := job.faults.take("poll"):
            return await self._play(fault, request, "poll")
        return json_response(job.encoded(self._clock()))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a job for its owner."""
        if fault := self._faults.take("cancel"):
            return await self._play(fault, request, "cancel")
        owner = bearer_token(request, self._tokens)
        job = self._job(request)
        if job.owner != owner:
            raise refused(403, "You do not have permission to perform this action.")
        if fault := job.faults.take("cancel"):
            return await self._play(fault, request, "cancel")
        now = self._clock()
        if job.state(now).ended:
            raise refused(409, "The job has ended.")
        job.cancel(now)
        return web.Response(status=204)

    async def add_faults(self, request: web.Request) -> web.StreamResponse:
        """Add the faults in a JSON array to those of all requests."""
        bearer_token(request, self._tokens)
        try:
            faults = msgspec.json.decode(await request.read(), type=list[Fault])
        except msgspec.DecodeError as error:
            raise refused(400, str(error)) from error
        for fault in faults:
            self._faults.add(fault)
        return web.Response(status=204)

    async def clear_faults(self, request: web.Request) -> web.StreamResponse:
        """Remove the faults of all requests."""
        bearer_token(request, self._tokens)
        self._faults.clear()
        return web.Response(status=204)

    def _check_entity(self, request: web.Request) -> None:
        workspace, entity = request.match_info["workspace_id"], request.match_info["id"]
        if not (entity.isascii() and entity.isdigit()):
            raise Refused(400, b'{"id":["A valid integer is required."]}')
        if _MISSING in (workspace, entity):
            raise refused(404, "Not found.")

    def _job(self, request: web.Request) -> Job:
        if job := self._jobs.get(request.match_info["uid"]):
            return job
        raise refused(404, "Not found.")

    async def _ends_in_time(self, job: Job) -> bool:
        until = self._clock() + job.parameters.hold
        while not job.state(self._clock()).ended and self._clock() < until:  # noqa: ASYNC110 - the clock may be a test's, without timers
            await asyncio.sleep(_HOLD_STEP)
        return job.state(self._clock()).ended

    async def _play(
        self, fault: Fault, request: web.Request, moment: Moment, uid: int | None = None
    ) -> web.StreamResponse:
        if uid is None:
            named = self._jobs.get(request.match_info.get("uid", ""))
            uid = named.uid if named else 0
        success = 201 if moment in ("submit", "after_submit") else 200
        _log.info("simulator fault", kind=fault.kind, on=moment, uid=uid)
        if is_wire_kind(fault.kind):
            if request.transport is None:
                raise ConnectionResetError("the client has disconnected")
            await misbehave(fault, request.transport, uid=uid, success=success)
        elsewhere = _other_name(request)
        return response(fault_response(fault, uid=uid, success=success, elsewhere=elsewhere))


def _submission(body: bytes) -> Submission:
    try:
        return read_submission(body)
    except FieldErrors as error:
        raise Refused(400, msgspec.json.encode(error.errors)) from error
    except ValueError as error:
        raise refused(400, f"JSON parse error: {error}") from error


def _created(request: web.Request, job: Job) -> bytes:
    path = f"{BASE_PATH}/jobs/{job.uid}/"
    absolute = str(request.url.origin().with_path(path))
    bodies: dict[str, dict[str, object]] = {
        "uid": {"uid": job.uid},
        "url": {"url": path},
        "absolute_url": {"url": absolute},
        "both": {
            "uid": job.uid,
            "url": absolute,
            "kind": "result",
            "status": "running" if job.parameters.shape == "second" else "message",
        },
    }
    return msgspec.json.encode(bodies[job.parameters.answer])


def _other_name(request: web.Request) -> str:
    origin = request.url.origin()
    name = "127.0.0.1" if origin.host == "localhost" else "localhost"
    return str(origin.with_host(name).with_path(REDIRECTED_PATH))
