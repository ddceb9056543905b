"""The heartbeats that a line display tells, with stepped time."""

from __future__ import annotations

from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.display.heartbeats import REPEAT_SECONDS, HeartbeatNews


def test_a_heartbeat_without_news_is_told_after_a_while() -> None:
    now = 100.0
    news = HeartbeatNews(lambda: now)
    told: list[float] = []
    for second in range(0, 61, 3):
        now = 100.0 + second
        if second == 36:
            assert news.is_news(pb.JobEvent(job=pb.Job(uid=1)))
        elif news.is_news(pb.JobEvent(heartbeat=pb.Heartbeat(last_failure="" if second < 6 else "UPSTREAM_TIMEOUT"))):
            told.append(second)
    assert REPEAT_SECONDS == 15
    # The failure, its repetition, and again after the state, which is a sign that it had ended.
    assert told == [6, 21, 39, 54]
