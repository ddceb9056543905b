"""A random history through three gateways with faults, and the checker's own test."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.submit.fleet import Answer
from tests.submit.histories import History, Post, complaints, figures, run
from tests.support.redis import need_redis

if TYPE_CHECKING:
    from pathlib import Path

SENDS = 1_500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lossy"),
    [
        ("sqlite", False),
        pytest.param("redis", False, marks=pytest.mark.tools),
        pytest.param("redis", True, marks=pytest.mark.tools),
    ],
)
async def test_a_random_history_keeps_every_rule(kind: str, lossy: bool, tmp_path: Path) -> None:
    if kind == "redis":
        need_redis()
    began = time.monotonic()
    history = await run(kind, SENDS, seed=1, folder=tmp_path, lossy=lossy)
    told = figures(history, time.monotonic() - began)
    assert not told["complaints"], told
    assert min(told["ends"]["OK"], told["ends"]["REPLAYED"]) > SENDS / 10, told
    # Only a fault of the store between a job and its settle, and then a kill, can make a known job unknown.
    assert told["forgotten"] <= told["ids"] / 20, told


OK_1, OK_2 = Answer(1, ""), Answer(2, "")
REPLAY_1 = Answer(1, "", replayed=True)
UNKNOWN, AWAY, REFUSAL = (
    Answer(None, reason) for reason in ("SUBMIT_OUTCOME_UNKNOWN", "STATE_UNAVAILABLE", "UPSTREAM_BAD_REQUEST")
)
MADE_1, MADE_2, REFUSED = Post(10.0, 1), Post(20.0, 2), Post(15.0, None)
CALM_AT = 30.0
MADE_LATE = Post(31.0, 1)


@pytest.mark.parametrize(
    ("posts", "answers", "losses", "told"),
    [
        ([MADE_1], [OK_1, REPLAY_1], [], ""),
        ([REFUSED, MADE_2], [REFUSAL, OK_2], [], ""),
        ([MADE_1], [Answer(None, "UNAVAILABLE"), UNKNOWN], [], ""),
        ([MADE_LATE], [AWAY, OK_1], [], ""),
        ([MADE_1, MADE_2], [OK_1], [], "2 jobs, after 0 losses"),
        ([MADE_1, MADE_2], [OK_1], [15.0], ""),
        ([MADE_1, MADE_2], [OK_1], [1.0, 21.0], "2 jobs, after 0 losses"),
        ([MADE_1], [OK_2], [], "the jobs are [1]"),
        ([], [OK_1], [], "the jobs are []"),
        ([MADE_1], [Answer(None, "GATEWAY_DEFECT"), UNKNOWN], [], "unexpected errors {'GATEWAY_DEFECT'}"),
        ([MADE_1], [REFUSAL], [], "refused nothing"),
        ([MADE_1], [OK_1, OK_1], [], "2 calls say that they sent the job"),
        ([MADE_1], [AWAY, UNKNOWN], [], "nothing was sent, and the upstream saw it"),
        ([MADE_1], [OK_1, Answer(None, "DEADLINE_EXCEEDED")], [], "DEADLINE_EXCEEDED after the faults"),
    ],
)
def test_the_checker_finds_each_kind_of_breach(
    posts: list[Post], answers: list[Answer], losses: list[float], told: str
) -> None:
    *before, last = answers
    # An answer of a call that says nothing, so that the rule for calls that sent nothing counts the others only.
    before = before or [Answer(None, "UNAVAILABLE")]
    history = History({"id": posts}, {"id": before}, {"id": last}, losses=losses, calm_at=CALM_AT)
    found = list(complaints(history))
    assert (told in "".join(found)) if told else not found


def test_jobs_that_became_unknown_are_counted() -> None:
    history = History(answers={"a": [OK_1], "b": [OK_2], "c": [UNKNOWN]}, last={"a": UNKNOWN, "b": OK_2, "c": UNKNOWN})
    assert history.forgotten == 1
