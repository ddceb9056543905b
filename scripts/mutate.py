"""Check the checker of the watch promises: break the code, and list the checks that find each mutation.

Each mutation is applied to a copy of the tree, with the runs on the stepped clock. The exit code is 1 if a mutation is
not found, or if its text is no longer in the code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SEEDS = "0-11"
TIMEOUT_SECONDS = 600


class Mutation(NamedTuple):
    """A mutation that breaks a promise: it replaces `old` in `file` with `new`.

    Attributes:
        promise: The numbers of the promises (tests/invariants/checks.py).
        effect: The broken behavior.
        file: A path relative to the repository.
        old: A text that occurs once in the file.
        new: The text to replace it with.

    """

    promise: str
    effect: str
    file: str
    old: str
    new: str


WATCHER, LOOP, HUB, OUTAGE, PRESENCE, REFUSALS, STREAM, EVENTS, ERRORS = (
    f"gateway/{name}.py"
    for name in (
        "watch/watcher",
        "watch/loop",
        "watch/hub",
        "watch/outage",
        "watch/presence",
        "watch/refusals",
        "rpc/stream",
        "rpc/codec/events",
        "errors",
    )
)
MULTI, TURNS, LARGE, STREAM_WATCH = (
    f"gateway/rpc/{name}.py" for name in ("multi_stream", "turns", "large_states", "stream_watch")
)

MUTATIONS = [
    Mutation("1", "a new watcher waits for a change", WATCHER, "self._version = 0\n", "self._version = loop.version\n"),
    Mutation("1", "a resume token that fits is ignored", WATCHER, "if not known:", "if True:"),
    Mutation(
        "2",
        "equal states are repeated",
        LOOP,
        "changed = self.state is None or not self.state.equals(state)",
        "changed = True",
    ),
    Mutation(
        "2",
        "every second change is lost",
        LOOP,
        "            self.version += 1\n        if self.is_done:",
        "            self.version += self.version % 2 or 2\n        if self.is_done:",
    ),
    Mutation("3", "a stream continues after the end", STREAM, "self.ended = last", "self.ended = False"),
    Mutation(
        "3",
        "a stream ends with OK although its loop failed",
        WATCHER,
        "raise loop.failure.with_traceback(None)",
        "return StateChange(loop.state, 0, True)  # type: ignore[arg-type]",
    ),
    Mutation(
        "3",
        "chunks lose their last piece",
        EVENTS,
        "range(offset, len(result), CHUNK_BYTES)",
        "range(offset, len(result) - CHUNK_BYTES, CHUNK_BYTES)",
    ),
    Mutation(
        "3, 11",
        "chunks do not continue at their offset",
        EVENTS,
        "return min(point.offset, len(result))",
        "return min(point.offset + 1, len(result))",
    ),
    Mutation(
        "4",
        "skipped states are not counted",
        WATCHER,
        "skipped = 0 if first else loop.version - self._version - 1",
        "skipped = 0",
    ),
    Mutation(
        "4",
        "a slow watcher gets an old state",
        WATCHER,
        "return StateChange(loop.state, skipped, loop.is_done)",
        "old, loop._old = getattr(loop, '_old', loop.state), loop.state; return StateChange(old, skipped, loop.is_done)",
    ),
    Mutation(
        "5",
        "each watcher has its own loop",
        HUB,
        "loop = self._loops.get(key) or self._recent.get(key)",
        "loop = None",
    ),
    Mutation(
        "5",
        "credentials share a loop",
        HUB,
        "        loop = self._loops.get(key) or",
        "        key = WatchKey(b'', key.job)\n        loop = self._loops.get(key) or",
    ),
    Mutation(
        "5",
        "the shortest interval is not kept",
        LOOP,
        "self._timing.due = now + self._policy.schedule.interval(now - self._began)",
        "self._timing.due = now + 0.1",
    ),
    Mutation("6", "a loop stays without watchers", PRESENCE, "+ UNWATCHED_SECONDS", "+ 1e9"),
    Mutation(
        "6",
        "a read in flight is discarded with its last watcher",
        PRESENCE,
        "return self._keeps_running_unwatched",
        "return False",
    ),
    Mutation(
        "6",
        "the first watcher that leaves stops the loop",
        LOOP,
        "if not stays and not self.task.done():",
        "if not self.task.done():",
    ),
    Mutation(
        "7",
        "watchers are not woken by a final failure",
        LOOP,
        "        self._on_end(self)\n        self._presence.wake_all()",
        "        self._on_end(self)",
    ),
    Mutation(
        "7",
        "a loop that failed accepts watchers",
        LOOP,
        "        self.failure = failure.with_traceback(None)\n        self._on_end(self)",
        "        self.failure = failure.with_traceback(None)",
    ),
    Mutation(
        "7",
        "a loop that ended accepts watchers, and is stopped after the last one",
        HUB,
        "            del self._loops[key]\n",
        "            pass\n",
    ),
    Mutation(
        "2",
        "watchers are not woken by a change",
        LOOP,
        "        if changed or recovered:\n            self._presence.wake_all()",
        "        if self.is_done:\n            self._presence.wake_all()",
    ),
    Mutation("8", "failures cause no backoff", LOOP, "else schedule.backoff(self.failures)", "else 0.05"),
    Mutation("8", "a transient failure ends the watch", LOOP, "if self._refusals.count(error, now):", "if True:"),
    Mutation("8", "a refusal does not end the watch", LOOP, "if self._refusals.count(error, now):", "if False:"),
    Mutation(
        "8", "one refusal ends a watch that has seen a state", REFUSALS, "return not self.confirming", "return True"
    ),
    Mutation(
        "8",
        "another refusal confirms the first",
        REFUSALS,
        "confirmed = self._unconfirmed == error.http_status",
        "confirmed = self._unconfirmed is not None",
    ),
    Mutation(
        "8",
        "a good read does not reset a refusal",
        REFUSALS,
        "self._grace_until = self._unconfirmed = None",
        "self._grace_until = None",
    ),
    Mutation("8", "a refusal of a job that was just sent counts", REFUSALS, "if self._in_grace(now):", "if False:"),
    Mutation(
        "8", "refusals of a job that was just sent never count", REFUSALS, "now + GRACE_SECONDS if", "now + 1e9 if"
    ),
    Mutation("8", "a resume token proves nothing", LOOP, "self._refusals.exists |= exists", "pass"),
    Mutation(
        "8",
        "an error page of a proxy is a refusal",
        ERRORS,
        "self.transient = repeatable or not from_api",
        "self.transient = repeatable",
    ),
    Mutation(
        "8",
        "a watch ends without a last poll",
        LOOP,
        "if asked is not None and now + wait > ends_at:",
        "if False:",
    ),
    Mutation("8", "an outage has no limit", OUTAGE, "else self._since + self.limit", "else self._since + 1e9"),
    Mutation(
        "8",
        "an outage ends too early",
        OUTAGE,
        "else self._since + self.limit",
        "else self._since + self.limit / 2",
    ),
    Mutation(
        "8",
        "a success does not reset the outage",
        OUTAGE,
        "        self.last_failure = None\n        self.restart()",
        "        self.last_failure = None\n        self.one_more_poll_allowed = False",
    ),
    Mutation(
        "8",
        "Retry-After is ignored",
        LOOP,
        "wait = max(wait, asked + schedule.jitter())",
        "pass",
    ),
    Mutation(
        "8",
        "a 429 delays only its own loop",
        LOOP,
        "        if error.throttled:\n            self._throttle",
        "        if False:\n            self._throttle",
    ),
    Mutation(
        "8",
        "the last failure is wrong",
        OUTAGE,
        "return UpstreamOutage(last, ",
        "return UpstreamOutage(UpstreamError('other') if False else UpstreamTimeout('x') if not isinstance(last, UpstreamTimeout) else type('Other', (UpstreamError,), {})('x'), ",
    ),
    Mutation("9", "heartbeats come late", STREAM, "HEARTBEAT_FRACTION = 0.9", "HEARTBEAT_FRACTION = 1.5"),
    Mutation("9", "heartbeats do not count failures", OUTAGE, "self.failures += 1", "self.failures = 1"),
    Mutation(
        "9",
        "heartbeats keep the last failure",
        OUTAGE,
        "        self.last_failure = None\n        self.restart()",
        "        self.restart()",
    ),
    Mutation(
        "10",
        "a poll that hangs has no timeout",
        LOOP,
        "time_limit = self._time_limits.until(limit.moment)",
        "time_limit = self._time_limits.until(1e12)",
    ),
    Mutation(
        "11",
        "heartbeats have no token",
        STREAM,
        "watcher.latest, self._token, failure",
        "watcher.latest, '', failure",
    ),
    Mutation(
        "11", "the end is not repeated", WATCHER, "first and not loop.is_done and self._seen", "first and self._seen"
    ),
]

# Promises of `WatchJobs` (tests/invariants/multiplexed.py).
MULTIPLEXED = [
    Mutation(
        "1",
        "an end is lost: its watch ends without an event",
        MULTI,
        "            self._end_with(watch, taken.change)\n        return taken",
        "            self._end_with(watch, taken.change)\n            return None\n        return taken",
    ),
    Mutation(
        "1",
        "an end in chunks is lost",
        MULTI,
        "                self._end_with(watch, turn.change)\n",
        "                self._end_with(watch, turn.change)\n                return None\n",
    ),
    Mutation(
        "1",
        "an end is told twice",
        MULTI,
        "            await self._call.write(turn.event, last=last)\n",
        "            await self._call.write(turn.event, last=last)\n"
        "            if turn.change is not None and turn.change.last:\n"
        "                await self._call.write(turn.event, last=last)\n",
    ),
    Mutation(
        "1",
        "a failure is told twice",
        MULTI,
        "        self._refuse(watch.uid, error, watch.token, of_watch=first)",
        "        self._refuse(watch.uid, error, watch.token, of_watch=first)\n"
        "        self._refuse(watch.uid, error, watch.token)",
    ),
    Mutation(
        "2",
        "a stream ends before its last watch",
        MULTI,
        "elif self._half_closed and not self._watches:",
        "elif self._half_closed and len(self._watches) < 2:",
    ),
    Mutation(
        "3",
        "a failure ends the stream",
        MULTI,
        "        except GatewayError as error:\n            self._fail(watch, error)\n            return None",
        "        except GatewayError:\n            raise",
    ),
    Mutation(
        "3",
        "an invalid request ends the stream",
        MULTI,
        "        except RequestInvalid as error:\n            self._reject(request, error)",
        "        except RequestInvalid:\n            raise",
    ),
    Mutation(
        "3", "the token of another job is accepted", STREAM, "if point is not None and point.uid != uid:", "if False:"
    ),
    Mutation(
        "4",
        "a stream is silent",
        MULTI,
        "self._silence = read_heartbeat_interval(request) * HEARTBEAT_FRACTION",
        "self._silence = read_heartbeat_interval(request) * 2",
    ),
    Mutation(
        "4",
        "a job does not say that reading it fails",
        LOOP,
        "        if outage.failures == 1:\n            self._presence.wake_all()",
        "        if outage.failures == 2:\n            self._presence.wake_all()",
    ),
    Mutation("4", "a job does not say that reading it works", LOOP, "if changed or recovered:", "if changed:"),
    Mutation(
        "4", "each failure is told", STREAM_WATCH, "        if failing == self._failing:", "        if not failing:"
    ),
    Mutation("5", "synced comes too early", MULTI, "if not self._behind and", "if self._behind < 2 and"),
    Mutation("5", "a failure is never caught up with", MULTI, "self._behind -= refusal.of_watch", "pass"),
    Mutation("6", "the latest job is first, and others starve", TURNS, "popitem(last=False)[0]", "popitem()[0]"),
    Mutation(
        "6",
        "large states starve the others",
        TURNS,
        "self._part is not None and self._left <= 0",
        "self._part is not None",
    ),
    Mutation(
        "6",
        "one large state starves the next",
        LARGE,
        "self._states[watch] = parts",
        "self._states[watch] = parts\n                self._states.move_to_end(watch, last=False)",
    ),
    Mutation(
        "8",
        "a loop is not left with its stream",
        MULTI,
        "        self._leave(subscription for _, subscription in left if subscription is not None)\n",
        "        pass\n",
    ),
    Mutation(
        "8",
        "the end has the token of another job",
        STREAM_WATCH,
        "token = write_token(ResumePoint(self.uid, ",
        "token = write_token(ResumePoint(self.uid + 1, ",
    ),
    Mutation(
        "8",
        "a failure has the token of another job",
        MULTI,
        "self._refuse(watch.uid, error, watch.token, of_watch=first)",
        "self._refuse(watch.uid, error, next((w.token for w in self._watches.values()), ''), of_watch=first)",
    ),
]


def judge(mutation: Mutation, tests: str, folder: Path) -> str:
    """Return the result of a mutation: the checks that find it, another failure, or `SURVIVED`."""
    target = folder / mutation.file
    text = (ROOT / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        return "STALE: its text must occur once in the code"
    target.write_text(text.replace(mutation.old, mutation.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/invariants/{tests}.py"]
    environment = os.environ | {"PROMISES_SEEDS": SEEDS, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'generated'}"}
    try:
        done = subprocess.run(  # noqa: S603 - our own tests
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "found: the tests do not end"
    finally:
        target.write_text(text)
    if done.returncode == 0:
        return "SURVIVED"
    checks = sorted(set(re.findall(r"'(\w+)': [\"']", done.stdout)))
    other = re.findall(r"^E +(AssertionError[^\n]{0,80})", done.stdout, re.MULTILINE)
    # Without a failed check or assertion, the mutated code does not run, which proves nothing.
    return f"found: {', '.join(checks) or other[0]}" if checks or other else "DOES NOT RUN"


def main() -> None:
    """Print a row for each mutation."""
    not_found = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("gateway", "generated", "tests"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for tests, mutations in (("test_stepped", MUTATIONS), ("test_multiplexed", MULTIPLEXED)):
            for mutation in mutations:
                verdict = judge(mutation, tests, folder)
                not_found += not verdict.startswith("found")
                print(f"{mutation.promise:5} {mutation.effect:68} {verdict}", flush=True)
    print(f"{len(MUTATIONS) + len(MULTIPLEXED)} mutations, {not_found} not found")
    sys.exit(1 if not_found else 0)


if __name__ == "__main__":
    main()
