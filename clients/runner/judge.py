"""What must be true of a run: the scenario's own patterns, and the promises that hold in each."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clients.runner.stack import FRESH_TOKEN, TOKEN
from gateway.simulator.parameters import Parameters
from gateway.simulator.results import result_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.runner.scenarios import Line, Scenario

FIRST = "{first}"
"""In a pattern: the uid that the first `send` gave."""

POSITIVE = "{positive}"
"""In a pattern: any number above 0."""


@dataclass
class Run:
    """What was seen of one client in one scenario.

    Attributes:
        lines: what it printed.
        garbled: what it printed that is not a JSON object.
        exit_code: how it ended.
        text: all that it wrote, to both outputs.
        posts: the bodies of the submissions that reached the upstream.
        paths: the paths that were asked for there.
        missed: the faults whose time did not come.
        reads_service_config: whether the client's library does.

    """

    lines: list[Line] = field(default_factory=list)
    garbled: list[bytes] = field(default_factory=list)
    exit_code: int = 0
    text: str = ""
    posts: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    reads_service_config: bool = False


def problems(scenario: Scenario, run: Run) -> list[str]:
    """What is wrong with a run, a line for each; empty where all is well."""
    return [
        *_process(run),
        *_expected(scenario, run),
        *_watches(run.lines),
        *_chunks(scenario, run.lines),
        *_results(scenario, run.lines),
        *_upstream(scenario, run),
    ]


def matches(pattern: object, value: object, known: Line) -> bool:
    """Whether a value has all that a pattern names; `known` says what `{...}` stands for."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(matches(part, value.get(key), known) for key, part in pattern.items())
    if isinstance(pattern, str) and pattern in known:
        pattern = known[pattern]
    if pattern == POSITIVE:
        return isinstance(value, int | float) and value > 0
    # A client may leave out what is empty.
    if value is None:
        return pattern in ("", 0, False, None)
    return bool(pattern == value)


def _process(run: Run) -> Iterator[str]:
    if run.exit_code:
        yield f"it ended with exit code {run.exit_code}"
    yield from (f"not a JSON object: {line[:100]!r}" for line in run.garbled)
    if TOKEN in run.text or FRESH_TOKEN in run.text:
        yield "it printed a token"
    yield from (f"the time of the fault {fault} did not come" for fault in run.missed)


def _expected(scenario: Scenario, run: Run) -> Iterator[str]:
    lines = run.lines
    uids = [line["job"].get("uid") for line in lines if "job" in line and line.get("do") == "send"]
    yield from (f"uid {uid!r} is not a string" for uid in uids if not isinstance(uid, str))
    known: Line = {FIRST: uids[0]} if uids else {}
    left = iter(lines)
    for pattern in scenario.expect:
        if not any(matches(pattern, line, known) for line in left):
            yield f"expected, after what came before: {json.dumps(pattern)}"
            break
    never = scenario.never + (scenario.never_with_service_config if run.reads_service_config else [])
    for line, pattern in itertools.product(lines, never):
        if matches(pattern, line, known):
            yield f"not expected: {json.dumps(line)}"


def _watches(lines: list[Line]) -> Iterator[str]:
    watched = [line for line in lines if line.get("do") == "watch"]
    if not watched or "error" in watched[-1]:
        return
    states = [line["job"] for line in watched if "job" in line]
    if [bool(state.get("done")) for state in states].count(True) != 1 or not watched[-1].get("job", {}).get("done"):
        yield "a watch ends with one state that is done"
    for one, two in itertools.pairwise(states):
        if one == two:
            # Also after a resumption: that is how a token shows that was not passed.
            yield f"the same state twice: {json.dumps(one)}"


def _chunks(scenario: Scenario, lines: list[Line]) -> Iterator[str]:
    held = 0
    for chunk in (line["chunk"] for line in lines if "chunk" in line):
        if chunk.get("held", 0) != held:
            yield f"{held} bytes were held before {json.dumps(chunk)}"
        # Only a result that has changed begins anew; else that is how a token shows that was not passed.
        if chunk.get("offset", 0) != held and not (scenario.result and chunk.get("offset", 0) == 0):
            yield f"a chunk does not go on where the last one stopped: {json.dumps(chunk)}"
        held = chunk.get("offset", 0) + chunk["size"]


def _results(scenario: Scenario, lines: list[Line]) -> Iterator[str]:
    for result in (line["job"]["result"] for line in lines if line.get("job", {}).get("result")):
        if result["as"] == "none":
            continue
        sent = scenario.result.encode() or result_json(msgspec.convert(_without_faults(scenario), Parameters))
        truth = {"size": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}
        told = {"size": result.get("told_size"), "sha256": result.get("told_sha256")}
        held = {"size": result.get("size"), "sha256": result.get("sha256")}
        if told != truth:
            yield f"the result is {truth}, and the client was told {told}"
        if result["as"] in ("json", "chunks") and held != truth:
            yield f"the result is {truth}, and the client holds {held}"


def _without_faults(scenario: Scenario) -> dict[str, Any]:
    return {name: value for name, value in scenario.params().items() if name != "faults"}


def _upstream(scenario: Scenario, run: Run) -> Iterator[str]:
    posts = scenario.posts if any(step["do"] == "send" for step in scenario.steps) else 0
    if len(run.posts) != posts:
        yield f"{len(run.posts)} submissions reached the upstream, not {posts}"
    for body in run.posts:
        if not matches(scenario.posted, json.loads(body), {}):
            yield f"submitted: {body.decode()}"
    if scenario.asked and scenario.asked not in run.paths:
        yield f"asked upstream: {run.paths}"
