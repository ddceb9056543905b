"""`SendJob` and `GetJob`: server CPU per call and calls per second, beside the floor and the naive gateway."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benchmarks.processes import SERVE, Process, gateway, process, server, upstream
from benchmarks.table import Row

METHODS = ("SendJob", "GetJob")
IN_FLIGHT = (1, 8, 64, 256)
# Where one begins, and the floor; and what lies between and below them, at one number of calls only.
FLOORS = ("client", "floor")
MORE, MORE_AT = ("transport", "aiohttp"), 64


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    seconds, rounds = (0.5, 1) if quick else (1.0, 3)
    rows = []
    with ExitStack() as stack:
        _, url = stack.enter_context(upstream())
        servers = {
            "ours": stack.enter_context(gateway(url, SERVE)),
            "naive": stack.enter_context(server("naive", url)),
        }
        servers |= {how: stack.enter_context(server("floor", url, how)) for how in (*FLOORS, *MORE)}
        for each in servers.values():
            _load(*each, "GetJob", 64, 0.5)
        for method in METHODS:
            for in_flight in IN_FLIGHT:
                names = ("ours", "naive", *FLOORS, *(MORE if in_flight == MORE_AT else ()))
                seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
                for _ in range(rounds):
                    for name in names:
                        seen[name].append(_load(*servers[name], method, in_flight, seconds))
                cpu = {name: median(one for one, _ in each) * 1e6 for name, each in seen.items()}
                rate = {name: median(other for _, other in each) for name, each in seen.items()}
                rows += _rows(method, in_flight, cpu, rate)
    return rows


def _load(measured: Process, address: str, method: str, in_flight: int, seconds: float) -> tuple[float, float]:
    """Seconds of the server's CPU per call, and calls per second."""
    before = measured.cpu()
    with process("benchmarks.load", address, method, in_flight, seconds) as load:
        calls = int(load.answer())
    return (measured.cpu() - before) / calls, calls / seconds


def _rows(method: str, in_flight: int, cpu: dict[str, float], rate: dict[str, float]) -> list[Row]:
    what = f"`{method}`, {in_flight} in flight"
    figures = {f"{name} µs": value for name, value in cpu.items()}
    per_second = {f"{name} calls/s": value for name, value in rate.items()}
    rows = [
        Row(f"{what}: CPU relative to the floor", cpu["ours"] / cpu["floor"], "x", 1.15, figures=figures),
        Row(f"{what}: CPU relative to httpx's client on asyncio", cpu["ours"] / cpu["client"], "x", 1.15),
        Row(f"{what}: CPU relative to the naive gateway", cpu["ours"] / cpu["naive"], "x", 0.55),
        Row(f"{what}: calls per second relative to the floor", rate["ours"] / rate["floor"], "x", figures=per_second),
    ]
    if in_flight == MORE_AT:
        rows.append(
            Row(
                f"the floor of `{method}` relative to httpx's client on asyncio",
                cpu["floor"] / cpu["client"],
                "x",
                0.75,
            )
        )
    return rows
