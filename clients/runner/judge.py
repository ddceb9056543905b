"""The checks of a run: the patterns of its scenario, and the rules that apply to every scenario."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clients.runner import attempts
from clients.runner.scenarios import SENDING
from clients.runner.stack import FRESH_TOKEN, TOKEN
from gateway.simulator.parameters import Parameters
from gateway.simulator.results import result_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.runner.calls import Call, Lifetime
    from clients.runner.scenarios import Line, Scenario

FIRST = "{first}"
"""A placeholder in patterns: the uid that the first `send` returned."""

POSITIVE = "{positive}"
"""A placeholder in patterns: any number above 0."""


# A step that prints a job has called the first method.
_METHODS = {
    "send": ("SendJob",),
    "run": ("RunJob", "WatchJob"),
    "get": ("GetJob",),
    "wait": ("WaitJob",),
    "cancel": ("CancelJob",),
    "watch": ("WatchJob",),
    "watch_each": ("WatchJob",),
    "watch_all": ("WatchJobs",),
}


@dataclass
class Run:
    """The observations of one client in one scenario.

    Attributes:
        lines: The JSON lines that the client printed.
        invalid_lines: The printed lines that are not a JSON object.
        exit_code: The exit code of the client.
        text: All output of the client, standard error included.
        calls: The calls that the gateway or the proxy in front of it received.
        connections: The connections that the client made.
        posts: The bodies of the submissions that reached the upstream.
        paths: The paths of all requests that reached the upstream.
        missed: The faults that were never injected.
        reads_service_config: The client's library applies the service config.

    """

    lines: list[Line] = field(default_factory=list)
    invalid_lines: list[bytes] = field(default_factory=list)
    exit_code: int = 0
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    connections: list[Lifetime] = field(default_factory=list)
    posts: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    reads_service_config: bool = False


def problems(scenario: Scenario, run: Run) -> list[str]:
    """Return the problems of a run, one line each."""
    return [
        *_process(run),
        *_expected(scenario, run),
        *_watches(run.lines),
        *_many_watches(scenario, run.lines),
        *_connections(scenario, run),
        *attempts.problems(scenario, run.calls, run.connections),
        *_chunks(scenario, run.lines),
        *_results(scenario, run.lines),
        *_routing(scenario, run),
        *_upstream(scenario, run),
    ]


def matches(pattern: object, value: object, known: Line) -> bool:
    """Return whether a value has everything in a pattern; `known` has the values of the placeholders."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(matches(part, value.get(key), known) for key, part in pattern.items())
    if isinstance(pattern, str) and pattern in known:
        pattern = known[pattern]
    if pattern == POSITIVE:
        return isinstance(value, int | float) and value > 0
    # A client may omit fields without a value.
    if value is None:
        return pattern in ("", 0, False, None)
    return bool(pattern == value)


def _process(run: Run) -> Iterator[str]:
    if run.exit_code:
        yield f"exit code {run.exit_code}"
    yield from (f"not a JSON object: {line[:100]!r}" for line in run.invalid_lines)
    if TOKEN in run.text or FRESH_TOKEN in run.text:
        yield "the client printed a token"
    yield from (f"the fault {fault} was never injected" for fault in run.missed)


def _expected(scenario: Scenario, run: Run) -> Iterator[str]:
    lines = run.lines
    uids = _sent(lines)
    yield from (f"uid {uid!r} is not a string" for uid in uids if not isinstance(uid, str))
    known: Line = {FIRST: uids[0]} if uids else {}
    left = iter(lines)
    for pattern in scenario.expect:
        if not any(matches(pattern, line, known) for line in left):
            yield f"missing, or out of order: {json.dumps(pattern)}"
            break
    never = scenario.never + (scenario.never_with_service_config if run.reads_service_config else [])
    for line, pattern in itertools.product(lines, never):
        if matches(pattern, line, known):
            yield f"not expected: {json.dumps(line)}"


def _sent(lines: list[Line]) -> list[Any]:
    """Return the uids that the sending steps printed, in order."""
    uids: list[Any] = []
    for line in lines:
        if "job" in line and line.get("do") in SENDING:
            uid = line["job"].get("uid")
            # A `run` prints its job more than once.
            if line["do"] == "send" or uid not in uids:
                uids.append(uid)
    return uids


def _watches(lines: list[Line]) -> Iterator[str]:
    for step in ("watch", "run"):
        yield from _watch([line for line in lines if line.get("do") == step])


def _watch(watched: list[Line]) -> Iterator[str]:
    if not watched or "error" in watched[-1]:
        return
    states = [line["job"] for line in watched if "job" in line]
    if [bool(state.get("done")) for state in states].count(True) != 1 or not watched[-1].get("job", {}).get("done"):
        yield "the watch did not end with exactly one state that is done"
    for one, two in itertools.pairwise(states):
        if one == two:
            # This includes states after a resume, because a client that passes no resume token gets the state again.
            yield f"the same state twice: {json.dumps(one)}"


def _many_watches(scenario: Scenario, lines: list[Line]) -> Iterator[str]:
    named = {uid for step in scenario.steps if step["do"] == "watch_all" for uid in step.get("uids", ())}
    wanted = {*_sent(lines), *named}
    for step in ("watch_each", "watch_all"):
        watched = [line for line in lines if line.get("do") == step]
        if not watched or ("error" in watched[-1] and "uid" not in watched[-1]["error"]):
            continue
        jobs = _Jobs()
        for line in watched:
            for kind in ("job", "chunk", "heartbeat", "again", "error"):
                if about := line.get(kind):
                    yield from jobs.take(kind, about)
        yield from (f"the job {uid} did not end" for uid in sorted(wanted - jobs.ended.keys()))
        if step == "watch_all":
            yield from _told(watched, jobs)


def _told(watched: list[Line], jobs: _Jobs) -> Iterator[str]:
    told = watched[-1].get("ended")
    ends = {kind: list(jobs.ended.values()).count(kind) for kind in ("succeeded", "failed", "errors")}
    if told is None or not matches(ends, told, {}):
        yield f"the last line is {json.dumps(watched[-1])}, and the jobs ended like this: {ends}"


class _Jobs:
    """The jobs of a `watch_all` or `watch_each`: the last state and the end of each, by uid."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self._states: dict[str, Line] = {}

    def take(self, kind: str, about: Line) -> Iterator[str]:
        """Take a line about a job, and yield its problems."""
        uid = about.get("uid")
        # A heartbeat without a uid is that of the stream.
        if not isinstance(uid, str):
            if kind != "heartbeat":
                yield f"no uid: {json.dumps(about)}"
            return
        if uid in self.ended:
            yield f"the job {uid} has ended, and then came {json.dumps({kind: about})}"
        if kind == "job":
            # This includes states after a resume, because a client that passes no resume token gets the state again.
            if about == self._states.get(uid):
                yield f"the same state twice: {json.dumps(about)}"
            self._states[uid] = about
        if kind == "error":
            self.ended[uid] = "errors"
        elif about.get("done"):
            self.ended[uid] = "succeeded" if about.get("status") == "JOB_STATUS_SUCCESS" else "failed"


def _chunks(scenario: Scenario, lines: list[Line]) -> Iterator[str]:
    by_job: dict[str, int] = {}
    for chunk in (line["chunk"] for line in lines if "chunk" in line):
        held = by_job.get(chunk.get("uid", ""), 0)
        if chunk.get("held", 0) != held:
            yield f"the client had {held} bytes before {json.dumps(chunk)}"
        # A result starts again only if it changed, or if the client passed no resume token.
        if chunk.get("offset", 0) != held and not (scenario.result and chunk.get("offset", 0) == 0):
            yield f"a chunk does not continue at the end of the previous one: {json.dumps(chunk)}"
        by_job[chunk.get("uid", "")] = chunk.get("offset", 0) + chunk["size"]


def _results(scenario: Scenario, lines: list[Line]) -> Iterator[str]:
    params = dict(zip(_sent(lines), scenario.params(), strict=False))
    for job in (line["job"] for line in lines if line.get("job", {}).get("result")):
        result = job["result"]
        if result["as"] == "none":
            continue
        sent = scenario.result.encode() or _result_json(params.get(job.get("uid"), {}))
        expected = {"size": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}
        announced = {"size": result.get("content_size"), "sha256": result.get("content_sha256")}
        received = {"size": result.get("size"), "sha256": result.get("sha256")}
        if announced != expected:
            yield f"the result is {expected}, and the gateway announced {announced}"
        if result["as"] in ("json", "chunks") and received != expected:
            yield f"the result is {expected}, and the client has {received}"


def _result_json(params: Line) -> bytes:
    known: dict[str, Any] = {name: value for name, value in params.items() if name != "faults"}
    return result_json(msgspec.convert(known, Parameters))


def _routing(scenario: Scenario, run: Run) -> Iterator[str]:
    succeeded = {_METHODS[line["do"]][0] for line in run.lines if "job" in line}
    called = {call.method for call in run.calls}
    yield from (f"no call of {method} was recorded" for method in sorted(succeeded - called))
    # Others are those of the health service.
    known = {method for methods in _METHODS.values() for method in methods}
    others = called & known - {method for step in scenario.steps for method in _METHODS[step["do"]]}
    yield from (f"no step calls {method}" for method in sorted(others))
    for call in run.calls:
        if call.routed_by != ((call.uid,) if call.uid else ()):
            yield f"{call.method} of the job {call.uid or '-'} has the x-job-uid {list(call.routed_by)}"


def _connections(scenario: Scenario, run: Run) -> Iterator[str]:
    made = len(run.connections)
    if scenario.connections is not None and made > scenario.connections:
        yield f"the client made {made} connections, more than {scenario.connections}"


def _upstream(scenario: Scenario, run: Run) -> Iterator[str]:
    posts = scenario.posts if any(step["do"] in SENDING for step in scenario.steps) else 0
    if len(run.posts) != posts:
        yield f"{len(run.posts)} submissions reached the upstream, not {posts}"
    for body in run.posts:
        if not matches(scenario.posted, json.loads(body), {}):
            yield f"the submission has another body: {body.decode()}"
    if scenario.requested and scenario.requested not in run.paths:
        yield f"no request for {scenario.requested}: {run.paths}"
