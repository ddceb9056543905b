"""CPU per call and calls per second of `SendJob` and `GetJob`, next to the floor and the naive gateway."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benchmarks.processes import SERVE, Process, gateway, process, server, upstream
from benchmarks.table import Row

METHODS = ("SendJob", "GetJob")
IN_FLIGHT = (1, 8, 64, 256)
# HTTP clients of `servers/floor.py`, and further ones that are measured only with MORE_AT calls in flight.
FLOORS = ("client", "floor")
MORE, MORE_AT = ("transport", "aiohttp"), 64


def run(*, quick: bool) -> list[Row]:
    """Measure each method with each number of calls in flight."""
    seconds, rounds = (0.5, 1) if quick else (1.0, 3)
    rows = []
    with ExitStack() as stack:
        servers = _servers(stack)
        for each in servers.values():
            _load(each, "GetJob", 64, 0.5)
        for method in METHODS:
            for in_flight in IN_FLIGHT:
                names = ("gateway", "naive", *FLOORS, *(MORE if in_flight == MORE_AT else ()))
                loads: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
                for _ in range(rounds):
                    for name in names:
                        loads[name].append(_load(servers[name], method, in_flight, seconds))
                cpu = {name: median(cpu for cpu, _ in each) * 1e6 for name, each in loads.items()}
                rate = {name: median(rate for _, rate in each) for name, each in loads.items()}
                rows += _rows(method, in_flight, cpu, rate)
    return rows


def _servers(stack: ExitStack) -> dict[str, tuple[Process, str]]:
    """Start all servers; return their processes and addresses by name."""
    _, url = stack.enter_context(upstream())
    servers = {
        "gateway": stack.enter_context(gateway(url, SERVE)),
        "naive": stack.enter_context(server("naive", url)),
    }
    return servers | {client: stack.enter_context(server("floor", url, client)) for client in (*FLOORS, *MORE)}


def _load(measured: tuple[Process, str], method: str, in_flight: int, seconds: float) -> tuple[float, float]:
    """Make calls for some seconds; return the server's CPU time per call in seconds, and the calls per second."""
    server_process, address = measured
    before = server_process.cpu()
    with process("benchmarks.load", address, method, in_flight, seconds) as load:
        calls = int(load.output())
    return (server_process.cpu() - before) / calls, calls / seconds


def _rows(method: str, in_flight: int, cpu: dict[str, float], rate: dict[str, float]) -> list[Row]:
    what = f"`{method}`, {in_flight} in flight"
    figures = {f"{name} µs": value for name, value in cpu.items()}
    per_second = {f"{name} calls/s": value for name, value in rate.items()}
    rows = [
        Row(f"{what}: CPU relative to the floor", cpu["gateway"] / cpu["floor"], "x", 1.15, figures=figures),
        Row(f"{what}: CPU relative to httpx's client on asyncio", cpu["gateway"] / cpu["client"], "x", 1.15),
        Row(f"{what}: CPU relative to the naive gateway", cpu["gateway"] / cpu["naive"], "x", 0.55),
        Row(
            f"{what}: calls per second relative to the floor", rate["gateway"] / rate["floor"], "x", figures=per_second
        ),
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
