"""`SendJob` with a request id under each store, beside one without: CPU per call, and median latency."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.processes import SERVE, Process, gateway, process, server, upstream
from benchmarks.table import Row
from tests.support.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_FLIGHT = (1, 64)
# The most CPU per call with an id, relative to one without.
GOALS = {"memory": 1.05, "sqlite": 1.3, "redis": 1.3}


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    seconds, rounds = (0.5, 1) if quick else (1.0, 5)
    rows: list[Row] = []
    with ExitStack() as stack:
        _, url = stack.enter_context(upstream())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {"memory": "memory:", "sqlite": f"sqlite://{folder}/state.db"}
        if shutil.which("redis-server"):
            stores["redis"] = stack.enter_context(_redis(folder))
        key = folder / "key"
        key.write_text("k" * 32)
        settings = {"submissions_per_second": 100_000, "calls_per_second": 100_000, "state_key_file": key}
        servers = {
            name: stack.enter_context(gateway(url, SERVE, state_url=state, **settings))
            for name, state in stores.items()
        }
        servers["without"] = servers["memory"]
        servers["floor"] = stack.enter_context(server("floor", url, "floor"))
        servers["naive"] = stack.enter_context(server("naive", url))
        for name, each in servers.items():
            _load(*each, name, 64, 0.5)
        for in_flight in IN_FLIGHT:
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
            for _ in range(rounds):
                for name, each in servers.items():
                    seen[name].append(_load(*each, name, in_flight, seconds))
            cpu = {name: median(one for one, _ in each) * 1e6 for name, each in seen.items()}
            latency = {name: median(other for _, other in each) * 1e6 for name, each in seen.items()}
            rows += _rows(in_flight, stores, cpu, latency)
    return rows


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    data = folder / "redis"
    data.mkdir()
    # As Redis is usually run: with a log on disk that is written out once a second.
    redis = RedisServer(data, "--appendfsync", "everysec")
    redis.start()
    try:
        yield redis.url
    finally:
        redis.kill()


def _load(measured: Process, address: str, name: str, in_flight: int, seconds: float) -> tuple[float, float]:
    """Seconds of the server's CPU per call, and the median latency in seconds."""
    before = measured.cpu()
    ids = "without" if name in ("without", "floor", "naive") else "with"
    with process("benchmarks.sends", address, ids, in_flight, seconds) as load:
        calls, latency = load.output().split()
    return (measured.cpu() - before) / int(calls), float(latency)


def _rows(in_flight: int, stores: dict[str, str], cpu: dict[str, float], latency: dict[str, float]) -> list[Row]:
    rows = []
    for name in stores:
        beside = {f"{each} µs": cpu[each] for each in (name, "without", "floor", "naive")}
        what = f"`SendJob` with an id, `{name}`, {in_flight} in flight"
        rows.append(Row(f"{what}: CPU relative to no id", cpu[name] / cpu["without"], "x", GOALS[name], figures=beside))
        times = {f"{each} µs": latency[each] for each in (name, "without", "floor", "naive")}
        rows.append(
            Row(f"{what}: median latency relative to no id", latency[name] / latency["without"], "x", figures=times)
        )
    return rows
