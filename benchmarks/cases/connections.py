"""TLS connections per 1,000 polls, and the latency of `SendJob` after a pause, on a distant upstream."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from benchmarks.load import REQUESTS
from benchmarks.processes import SERVE, gateway, process, upstream, watches
from benchmarks.table import Row
from benchmarks.tls import KEEPALIVE_REQUESTS, KEEPALIVE_SECONDS, count_connections, is_missing, with_tls

# How many jobs, and how much faster the time of the gateway and of nginx's keepalive runs.
FACTORS = {1: 200, 10: 50, 1_000: 1}
POLLS, QUICK_POLLS = 1_000, 100
ROUND_TRIP_SECONDS = 0.03
IDLE_SECONDS = 5.0
# Each credential has its own connection, so one pause is enough for all.
CREDENTIALS = 8


def run(*, quick: bool) -> list[Row]:
    """Measure both."""
    if is_missing():
        return []
    polls = QUICK_POLLS if quick else POLLS
    rows = [_connections(jobs, factor, max(polls, 2 * jobs)) for jobs, factor in FACTORS.items()]
    return [*rows, _after_pause()]


def _connections(jobs: int, factor: int, polls: int) -> Row:
    keepalive = KEEPALIVE_SECONDS / factor
    with (
        upstream() as (_, url),
        with_tls(url, counts=True, keepalive_seconds=keepalive, keepalive_requests=KEEPALIVE_REQUESTS) as tls,
        gateway(tls.url, f"benchmarks.servers.accelerated {factor}", tls.environment) as (_, address),
        watches(address, 2, 2, jobs, 1),
    ):
        while len(requests := tls.requests()) < polls:
            time.sleep(0.05)
    seen = count_connections(requests[:polls])
    return Row(
        f"TLS handshakes per 1,000 polls of {jobs:,} quiet job{'s' if jobs > 1 else ''}, default schedule",
        seen["all"] / polls * 1_000,
        "",
        # With many jobs, as many connections as polls are in flight at the start.
        20 if jobs == 1 else None,
        figures={"polls": polls, "connections": seen["all"], "resumed": seen["resumed"]},
        note=f"(time runs {factor} times as fast)" if factor > 1 else "",
    )


def _after_pause() -> Row:
    with (
        upstream() as (_, url),
        with_tls(url) as tls,
        process("benchmarks.distance", tls.port, ROUND_TRIP_SECONDS) as proxy,
    ):
        distant = f"https://127.0.0.1:{proxy.next_line()}/api"
        with gateway(distant, SERVE, tls.environment) as (_, address):
            after_pause, at_once = asyncio.run(_latencies(address))
    round_trip = f"{ROUND_TRIP_SECONDS * 1e3:g} ms"
    return Row(
        f"`SendJob` after {IDLE_SECONDS:g} idle seconds, {round_trip} round trip, TLS upstream",
        after_pause / ROUND_TRIP_SECONDS,
        "round trips",
        1.5,
        figures={"ms": after_pause * 1e3, "without the pause ms": at_once * 1e3},
    )


async def _latencies(address: str) -> tuple[float, float]:
    """Return the median latency of a call after the pause, and of another one at once."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/jobgateway.v1.JobService/SendJob")

        async def send(credential: int) -> float:
            began = time.perf_counter()
            response = await call(REQUESTS["SendJob"], metadata=(("authorization", f"Bearer token-{credential}"),))
            assert pb.Job.FromString(response).uid
            return time.perf_counter() - began

        for credential in range(CREDENTIALS):
            await send(credential)
        await asyncio.sleep(IDLE_SECONDS)
        pairs = [(await send(credential), await send(credential)) for credential in range(CREDENTIALS)]
    return median(first for first, _ in pairs), median(second for _, second in pairs)
