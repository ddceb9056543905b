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
    assert told["ends"]["OK"] > SENDS / 10, told


OK_1, OK_2 = Answer(1, ""), Answer(2, "")
REPLAY_1 = Answer(1, "", replayed=True)
MADE_1, MADE_2, REFUSED = Post(10.0, 1), Post(20.0, 2), Post(15.0, None)


@pytest.mark.parametrize(
    ("posts", "answers", "losses", "told"),
    [
        ([MADE_1], [OK_1, REPLAY_1], [], ""),
        ([REFUSED, MADE_2], [Answer(None, "UPSTREAM_BAD_REQUEST"), OK_2], [], ""),
        ([MADE_1], [Answer(None, "SUBMIT_OUTCOME_UNKNOWN"), Answer(None, "UNAVAILABLE")], [], ""),
        ([MADE_1, MADE_2], [OK_1], [], "2 jobs, after 0 losses"),
        ([MADE_1, MADE_2], [OK_1], [15.0], ""),
        ([MADE_1, MADE_2], [OK_1], [1.0, 21.0], "2 jobs, after 0 losses"),
        ([MADE_1], [OK_2], [], "the jobs are [1]"),
        ([], [OK_1], [], "the jobs are []"),
        ([MADE_1], [Answer(None, "GATEWAY_DEFECT")], [], "unexpected errors {'GATEWAY_DEFECT'}"),
        ([MADE_1], [Answer(None, "UPSTREAM_BAD_REQUEST")], [], "refused nothing"),
        ([MADE_1], [OK_1, OK_1], [], "2 calls say that they sent the job"),
    ],
)
def test_the_checker_finds_each_kind_of_breach(
    posts: list[Post], answers: list[Answer], losses: list[float], told: str
) -> None:
    history = History(posts={"id": posts}, answers={"id": answers}, losses=losses)
    found = list(complaints(history))
    assert (told in "".join(found)) if told else not found
