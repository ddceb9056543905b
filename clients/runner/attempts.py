"""The checks of repeated calls: waits, silence, and connections. Load can only make a correct client slower.

Most checks are a lower bound of a time between two events at the proxy, or count calls or connections. That of a reset
backoff leaves five seconds for load, and that of an abandoned `WatchJobs` stream four.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clients.runner.calls import Call, End, JobRetry, Lifetime
    from clients.runner.scenarios import Scenario

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.5
_RESET_SECONDS: Final = 5.0
# After four failures, three more waits take at least 1.6 + 2.5 + 2.5 s, but at most 1.4 s if the backoff was reset.
_GROWN_AFTER, _WAITS_AFTER, _GROWN_SECONDS = 4, 3, 6.6
_DEFAULT_HEARTBEAT_SECONDS: Final = 15.0
# Timers of some languages fire a few milliseconds early.
_TOLERANCE: Final = 0.005
_OK: Final = grpc.StatusCode.OK.value[0]
_UNAUTHENTICATED: Final = grpc.StatusCode.UNAUTHENTICATED.value[0]
_UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE.value[0]
_RESOURCE_EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_WATCHES: Final = frozenset({"RunJob", "WatchJob", "WatchJobs"})
_MOST_UNUSED: Final = 2
_MOST_ATTEMPTS: Final = 5
# Clients leave a stream whose status does not come within five seconds after they half-closed it.
_LEAST_END_SECONDS: Final = 1.0


def problems(scenario: Scenario, calls: list[Call], connections: list[Lifetime]) -> Iterator[str]:
    """Yield the problems of repeated calls, one line each."""
    for chain in _chains(scenario, calls):
        if chain[0].method in _WATCHES:
            yield from _watch(scenario, chain, connections)
            yield from _reset(chain)
        else:
            yield from _unary(chain)
    for call in calls:
        for retry in call.retries:
            yield from _job_retry(retry)
    yield from _left_open(calls, connections)
    yield from _last_status(calls)


def _chains(scenario: Scenario, calls: Iterable[Call]) -> list[list[Call]]:
    """Return the calls that repeat each other, in order of time."""
    chains: dict[tuple[str, str], list[Call]] = {}
    runs = any(step["do"] == "run" for step in scenario.steps)
    for call in sorted(calls, key=lambda each: each.start):
        if call.method in ("RunJob", "WatchJob") and runs:
            chains.setdefault(("run", ""), []).append(call)
        elif call.method == "WatchJobs" or call.uid or call.request_id:
            chains.setdefault((call.method, call.uid or call.request_id), []).append(call)
    return list(chains.values())


def _unary(chain: list[Call]) -> Iterator[str]:
    attempt = 1
    for earlier, later in itertools.pairwise(chain):
        if earlier.end is None or earlier.end.code in (None, _OK):
            attempt = 1
            continue
        least = earlier.end.retry_seconds
        # A library has its own backoff, and a new login needs none.
        if not later.by_library and earlier.end.code != _UNAUTHENTICATED:
            least = max(least, _FIRST_WAIT)
        yield from _too_early(f"{later.method} came", later.start - earlier.end.time, least)
        if later.by_library:
            continue
        yield from _rest(earlier, later, least)
        if _repeats_without_limit(earlier):
            continue
        attempt += earlier.end.code != _UNAUTHENTICATED
        if attempt == _MOST_ATTEMPTS + 1:
            yield f"{later.method} came more than {_MOST_ATTEMPTS} times"


def _repeats_without_limit(failed: Call) -> bool:
    """Return whether a wait repeats a call up to its time limit, because a watch would continue."""
    end = failed.end
    if failed.method != "WaitJob" or end is None:
        return False
    limited = end.code == _RESOURCE_EXHAUSTED and end.retry_seconds
    return bool(limited) or end.code == _UNAVAILABLE or not end.reason


def _rest(earlier: Call, later: Call, least: float) -> Iterator[str]:
    """Yield a problem if a further attempt of a wait does not send the rest of its time limit, `least` seconds less."""
    before, rest = earlier.timeout_seconds, later.timeout_seconds
    # The time until the response is not counted, because a proxy and a client measure it differently.
    if before is not None and (rest is None or rest > before - least + _TOLERANCE):
        yield f"{later.method} has a timeout of {rest} s, and at most {before - least:.3f} s are left"


def _watch(scenario: Scenario, chain: list[Call], connections: list[Lifetime]) -> Iterator[str]:
    heartbeats = [step["heartbeat_seconds"] for step in scenario.steps if "heartbeat_seconds" in step]
    silence = 3 * min(heartbeats, default=_DEFAULT_HEARTBEAT_SECONDS)
    # With several watches, another one may have replaced the connection.
    shared = any(step["do"] == "watch_each" for step in scenario.steps)
    wait, opened = _FIRST_WAIT, chain[0].start
    for earlier, later in itertools.pairwise(chain):
        if earlier.end is not None and earlier.end.code == _OK:
            wait = _FIRST_WAIT  # this watch has ended, and another one starts
            continue
        if _is_of_library(earlier, later) or _left_for_a_login(earlier, later):
            continue
        # A stream that worked for so long starts with the first wait again.
        if later.start - opened > _RESET_SECONDS:
            wait = _FIRST_WAIT
        broken = _end_by_server(earlier, later)
        if broken is not None:
            yield from _too_early(f"{later.method} came", later.start - broken.time, max(wait, broken.retry_seconds))
        elif earlier.heard is not None:
            yield from _too_early(f"{later.method} replaced a stream", later.start - earlier.heard, silence)
        must_differ = broken is None or broken.reason in ("", "DRAINING")
        if must_differ and later.connection == earlier.connection:
            yield f"{later.method} came on connection {later.connection} again, on which the last stream broke"
        if not must_differ and not shared and _left(earlier, later, connections):
            yield f"{later.method} came on another connection, but connection {earlier.connection} worked"
        wait = min(2 * wait, _LONGEST_WAIT)
        # The client opens the later stream after this.
        opened = broken.time if broken is not None else earlier.start


def _reset(chain: list[Call]) -> Iterator[str]:
    """Yield a problem if the wait is not short again after a stream that worked."""
    for index in range(_GROWN_AFTER, len(chain) - _WAITS_AFTER):
        worked = chain[index]
        if worked.heard is None or worked.heard - worked.start <= _RESET_SECONDS:
            continue
        pairs = itertools.pairwise(chain[index : index + _WAITS_AFTER + 1])
        seconds = sum(later.start - earlier.end.time for earlier, later in pairs if earlier.end is not None)
        if seconds > _GROWN_SECONDS:
            yield f"the {_WAITS_AFTER} waits after a stream that worked took {seconds:.1f} s: the backoff was not reset"


def _is_of_library(earlier: Call, later: Call) -> bool:
    # Without a mark, a library repeats only calls that no gateway has processed.
    end = earlier.end
    unprocessed = earlier.heard is None and end is not None and end.code is None and not end.by_client
    return later.by_library or unprocessed


def _left_for_a_login(earlier: Call, later: Call) -> bool:
    return earlier.rejected and _end_by_server(earlier, later) is None


def _end_by_server(earlier: Call, later: Call) -> End | None:
    """Return the end of a call, None if the client abandoned it."""
    end = earlier.end
    return None if end is None or end.by_client or end.time > later.start else end


def _left(earlier: Call, later: Call, connections: list[Lifetime]) -> bool:
    """Return whether the client has left a connection that still works."""
    return later.connection != earlier.connection and connections[earlier.connection].is_open(later.start)


def _job_retry(retry: JobRetry) -> Iterator[str]:
    if retry.again is not None:
        least = max(_FIRST_WAIT, retry.retry_seconds)
        yield from _too_early(f"the job {retry.uid} was watched again", retry.again - retry.failed, least)


def _too_early(event: str, seconds: float, least: float) -> Iterator[str]:
    if seconds < least - _TOLERANCE:
        yield f"{event} after {seconds:.3f} s, and must wait {least:.3f} s"


def _left_open(calls: list[Call], connections: list[Lifetime]) -> Iterator[str]:
    """Yield a problem if the client keeps connections of which its last calls made no use."""
    last = max((call.end.time for call in calls if call.end and not call.end.by_client), default=0.0)
    began = max((call.start for call in calls), default=0.0)
    # Calls that were in flight then may continue on the connection that others replaced.
    used = {call.connection for call in calls if call.end is None or call.end.time >= began}
    count = sum(connection.is_open(last) for connection in connections if connection.number not in used)
    # A replaced one may drain, and one that was still connecting may be dropped later.
    if count > _MOST_UNUSED:
        yield f"the client had {count} unused connections at the end, more than {_MOST_UNUSED}"


def _last_status(calls: list[Call]) -> Iterator[str]:
    """Yield a problem if the client leaves its last `WatchJobs` stream, which ends the last jobs, before its status."""
    last = max((call for call in calls if call.method == "WatchJobs"), key=lambda each: each.start, default=None)
    if last is None or (last.end is not None and not last.end.by_client):
        return
    if last.half_closed is None:
        yield "the client left its last stream without half-closing it"
    elif last.end is not None and last.end.time - last.half_closed < _LEAST_END_SECONDS:
        yield f"the client left its last stream {last.end.time - last.half_closed:.3f} s after it half-closed it"
