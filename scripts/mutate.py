"""Breaks the code once for each promise of a watch, and shows which check of the history finds it.

Each mutation is made in a copy of the tree; the runs on the stepped clock are then judged there. Exits 1 where one
survives, or where its text no longer stands in the code.
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


class Mutation(NamedTuple):
    """What is broken: in `file`, `old` becomes `new`."""

    promise: str
    what: str
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

MUTATIONS = [
    Mutation("1", "a newcomer waits for a change", WATCHER, "self._version = 0\n", "self._version = loop.version\n"),
    Mutation("1", "a token that fits is not looked at", WATCHER, "if not known:", "if True:"),
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
    Mutation("3", "a stream goes on after the end", STREAM, "self.ended = last", "self.ended = False"),
    Mutation(
        "3",
        "a stream ends with OK where its loop failed",
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
        "chunks do not go on at their offset",
        EVENTS,
        "return min(point.offset, len(result))",
        "return min(point.offset + 1, len(result))",
    ),
    Mutation(
        "4",
        "what was skipped is not counted",
        WATCHER,
        "skipped = 0 if first else loop.version - self._version - 1",
        "skipped = 0",
    ),
    Mutation(
        "4",
        "a slow watcher gets the state that it missed first",
        WATCHER,
        "return StateChange(loop.state, skipped, loop.is_done)",
        "self._old = getattr(self, '_old', loop.state); old, self._old = self._old, loop.state; return StateChange(old, skipped, loop.is_done)",
    ),
    Mutation(
        "5",
        "each watcher has a loop of its own",
        HUB,
        "loop = self._loops.get(key) or self._recent.get(key)",
        "loop = None",
    ),
    Mutation(
        "5",
        "credentials share a loop",
        HUB,
        "        loop = self._loops.get(key) or",
        "        key = WatchKey(b'', key.name)\n        loop = self._loops.get(key) or",
    ),
    Mutation(
        "5",
        "the shortest interval is not kept",
        LOOP,
        "self._due = now + self._policy.schedule.interval(now - self._began)",
        "self._due = now + 0.1",
    ),
    Mutation("6", "a loop stays without watchers", PRESENCE, "+ KEEP_UNSEEN_SECONDS", "+ 1e9"),
    Mutation(
        "6",
        "a read in flight is thrown away with its last watcher",
        PRESENCE,
        "return self._outlives_watchers",
        "return False",
    ),
    Mutation(
        "6",
        "the first who leaves stops the loop",
        LOOP,
        "if not stays and not self.task.done():",
        "if not self.task.done():",
    ),
    Mutation(
        "7",
        "a final failure is not told",
        LOOP,
        "        self._on_end(self)\n        self._presence.wake_all()",
        "        self._on_end(self)",
    ),
    Mutation(
        "7",
        "a loop that failed takes newcomers",
        LOOP,
        "        self.failure = failure.with_traceback(None)\n        self._on_end(self)",
        "        self.failure = failure.with_traceback(None)",
    ),
    Mutation(
        "7",
        "a loop that ended takes newcomers and is stopped for the last of them",
        HUB,
        "            del self._loops[key]\n",
        "            pass\n",
    ),
    Mutation(
        "2",
        "watchers are not woken by a change",
        LOOP,
        "        if changed:\n            self._presence.wake_all()",
        "        if self.is_done:\n            self._presence.wake_all()",
    ),
    Mutation("8", "failures are not backed off", LOOP, "else schedule.backoff(self.failures)", "else 0.05"),
    Mutation("8", "a transient failure ends the watch", LOOP, "if self._refusals.count(error, now):", "if True:"),
    Mutation("8", "a refusal is ridden out", LOOP, "if self._refusals.count(error, now):", "if False:"),
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
    Mutation("8", "a job that was just sent is refused in vain", REFUSALS, "now + GRACE_SECONDS if", "now + 1e9 if"),
    Mutation("8", "a resume token proves nothing", LOOP, "self._refusals.exists |= exists", "pass"),
    Mutation(
        "8",
        "the page of a proxy is a refusal",
        ERRORS,
        "self.transient = repeatable or not from_api",
        "self.transient = repeatable",
    ),
    Mutation(
        "8",
        "a watch gives up without another look",
        LOOP,
        "            self._outage.extended = True\n            return ends_at",
        "            return ends_at",
    ),
    Mutation("8", "an outage has no limit", OUTAGE, "else self._since + self._limit", "else self._since + 1e9"),
    Mutation(
        "8",
        "an outage ends too early",
        OUTAGE,
        "else self._since + self._limit",
        "else self._since + self._limit / 2",
    ),
    Mutation(
        "8",
        "a success does not reset the outage",
        OUTAGE,
        "        self.last_failure = None\n        self.restart()",
        "        self.last_failure = None\n        self.extended = False",
    ),
    Mutation(
        "8",
        "Retry-After is not honoured",
        LOOP,
        "wait = max(wait, asked + schedule.spread())",
        "pass",
    ),
    Mutation(
        "8",
        "a 429 holds back its own loop only",
        LOOP,
        "        if error.throttled:\n            self._throttle",
        "        if False:\n            self._throttle",
    ),
    Mutation(
        "8",
        "the last failure is another one",
        OUTAGE,
        "return UpstreamOutage(last, ",
        "return UpstreamOutage(UpstreamError('other') if False else UpstreamTimeout('x') if not isinstance(last, UpstreamTimeout) else type('Other', (UpstreamError,), {})('x'), ",
    ),
    Mutation("9", "heartbeats come late", STREAM, "HEARTBEAT_PART = 0.9", "HEARTBEAT_PART = 1.5"),
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
        "a poll that hangs is never cut off",
        LOOP,
        "timeout = Timeout(self.clock, min(longest, outage_ends_at))",
        "timeout = Timeout(self.clock, 1e12)",
    ),
    Mutation(
        "11",
        "heartbeats bear no token",
        STREAM,
        "watcher.latest, self._token, failure",
        "watcher.latest, '', failure",
    ),
    Mutation(
        "11", "the end is not given again", WATCHER, "first and not loop.is_done and self._seen", "first and self._seen"
    ),
]


def judge(mutation: Mutation, folder: Path) -> str:
    """What finds the mutation: the names of the checks that it breaks, another failure, or nothing."""
    target = folder / mutation.file
    text = (ROOT / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        return "its text no longer stands in the code once"
    target.write_text(text.replace(mutation.old, mutation.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/invariants/test_stepped.py"]
    environment = os.environ | {"PROMISES_SEEDS": SEEDS, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'generated'}"}
    try:
        done = subprocess.run(  # noqa: S603 - our own tests
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "found: it never ends"
    finally:
        target.write_text(text)
    if done.returncode == 0:
        return "SURVIVED"
    checks = sorted(set(re.findall(r"'(\w+)': [\"']", done.stdout)))
    other = re.findall(r"^E +(AssertionError[^\n]{0,80})", done.stdout, re.MULTILINE)
    # Anything else is a mutation that does not run, which shows nothing.
    return f"found: {', '.join(checks) or other[0]}" if checks or other else "DOES NOT RUN"


def main() -> None:
    """Prints a row for each mutation."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("gateway", "generated", "tests"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for mutation in MUTATIONS:
            verdict = judge(mutation, folder)
            wrong += not verdict.startswith("found")
            print(f"{mutation.promise:5} {mutation.what:68} {verdict}", flush=True)
    print(f"{len(MUTATIONS)} mutations, {wrong} not found")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
