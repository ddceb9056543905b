"""A 50 MB result for 1 and 5 watchers: MB/s next to bare chunks, peak memory, longest pause of the event loop."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.processes import WITH_PAUSES, gateway, process, server, upstream
from benchmarks.table import Row, interleaved

SIZE = 50_000_000


def run(*, quick: bool) -> list[Row]:
    """Measure with 1 and with 5 watchers."""
    return [row for watchers in (1, 5) for row in _rows(watchers, rounds=1 if quick else 3)]


def _rows(watchers: int, *, rounds: int) -> list[Row]:
    growth = pause = 0.0
    with server("bare") as (_, bare_address), upstream(SIZE) as (_, url):

        def fresh() -> float:
            nonlocal growth, pause
            # A new process each time, because the peak of the memory is measured.
            with gateway(url, WITH_PAUSES) as (gateway_process, address):
                before = gateway_process.memory()
                gateway_process.longest_pause()
                rate = _rate(address, 42, watchers)
                pause = max(pause, gateway_process.longest_pause().ms)
                growth = max(growth, (gateway_process.peak_memory() - before) / SIZE)
                return rate

        seen = interleaved(rounds, {"gateway": fresh, "bare": lambda: _rate(bare_address, -SIZE, watchers)})
    what = f"a 50 MB result to {watchers}"
    figures = {f"{name} MB/s": value for name, value in seen.items()}
    ratio = seen["gateway"] / seen["bare"]
    return [
        Row(f"{what}: MB/s relative to bare chunks", ratio, "x", 0.8, at_least=True, figures=figures),
        Row(f"{what}: peak memory over its size", growth, "x", 2.5),
        Row(f"{what}: the longest pause", pause, "ms", 50),
    ]


def _rate(address: str, uid: int, watchers: int) -> float:
    """Return the MB/s from the first chunk to the last, as the mean of concurrent watchers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(process("benchmarks.chunks", address, uid)) for _ in range(watchers)]
        outputs = [client.output().split() for client in clients]
    if any(int(size) < SIZE for _, size in outputs):
        raise RuntimeError(f"result: fewer than {SIZE} bytes ({outputs})")
    return SIZE / 1e6 / (sum(float(seconds) for seconds, _ in outputs) / watchers)
