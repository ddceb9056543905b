"""CPU per call and calls per second of `SendJob` and `GetJob`, next to the floor and the naive gateway.

With a plain upstream and a TLS one, which only the gateway and the floor have.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from benchmarks.processes import SERVE, Process, gateway, process, server, upstream
from benchmarks.table import Row
from benchmarks.tls import is_missing, with_tls

METHODS = ("SendJob", "GetJob")
IN_FLIGHT = (1, 8, 64, 256)
# HTTP clients of `servers/floor.py`, and further ones that are measured only with MORE_AT calls in flight.
FLOORS = ("client", "floor")
MORE, MORE_AT = ("transport", "aiohttp"), 64
# The kinds of upstreams, as the names of rows have them, and the servers with each. A row for HTTP/2 belongs here.
PLAIN, TLS = "", ", TLS upstream"
TLS_SERVERS = ("gateway", "floor")
# The event loop is one thread, so its time limits the calls per second.
CPU, LOOP, RATE = range(3)
FLOOR_LIMIT = 1.35
Servers = dict[tuple[str, str], tuple[Process, str]]


def run(*, quick: bool) -> list[Row]:
    """Measure each method with each number of calls in flight."""
    seconds, rounds, numbers = (0.2, 1, IN_FLIGHT[1:3]) if quick else (1.0, 3, IN_FLIGHT)
    rows = []
    with ExitStack() as stack:
        servers = _servers(stack)
        for each in servers.values():
            _load(each, "GetJob", 64, seconds / 2)
        for method in METHODS:
            for in_flight in numbers:
                rows += _measure(servers, method, in_flight, seconds, rounds)
    return rows


def _measure(servers: Servers, method: str, in_flight: int, seconds: float, rounds: int) -> list[Row]:
    left_out = () if in_flight == MORE_AT else MORE
    loads: dict[tuple[str, str], list[tuple[float, ...]]] = {name: [] for name in servers if name[1] not in left_out}
    for _ in range(rounds):
        for name, seen in loads.items():
            seen.append(_load(servers[name], method, in_flight, seconds))
    medians = {name: tuple(map(median, zip(*seen, strict=True))) for name, seen in loads.items()}
    rows = []
    for kind in (PLAIN, TLS):
        of_kind = {name: values for (each, name), values in medians.items() if each == kind}
        if of_kind:
            rows += _rows(f"`{method}`, {in_flight} in flight{kind}", of_kind)
    if not left_out:
        floor, client = medians[PLAIN, "floor"][CPU], medians[PLAIN, "client"][CPU]
        rows.append(Row(f"the floor of `{method}` relative to httpx's client on asyncio", floor / client, "x", 0.75))
    return rows


def _servers(stack: ExitStack) -> Servers:
    """Start all servers; return their processes and addresses by the kind of their upstream and their name."""
    _, url = stack.enter_context(upstream())
    servers = {
        (PLAIN, "gateway"): stack.enter_context(gateway(url, SERVE)),
        (PLAIN, "naive"): stack.enter_context(server("naive", url)),
    }
    for client in (*FLOORS, *MORE):
        servers[PLAIN, client] = stack.enter_context(server("floor", url, client))
    if not is_missing():
        tls = stack.enter_context(with_tls(url))
        servers[TLS, "gateway"] = stack.enter_context(gateway(tls.url, SERVE, tls.environment))
        servers[TLS, "floor"] = stack.enter_context(server("floor", tls.url, "floor", environment=tls.environment))
    return servers


def _load(measured: tuple[Process, str], method: str, in_flight: int, seconds: float) -> tuple[float, ...]:
    """Make calls for some seconds; return CPU and event loop µs per call of the server, and the calls per second."""
    server_process, address = measured
    before, loop_before = server_process.cpu(), server_process.event_loop_cpu()
    with process("benchmarks.load", address, method, in_flight, seconds) as load:
        calls = int(load.output())
    cpu, loop = server_process.cpu() - before, server_process.event_loop_cpu() - loop_before
    return cpu / calls * 1e6, loop / calls * 1e6, calls / seconds


def _rows(what: str, medians: dict[str, tuple[float, ...]]) -> list[Row]:
    gateway_, floor = medians["gateway"], medians["floor"]

    def figures(kind: int, unit: str) -> dict[str, float]:
        return {f"{name} {unit}": values[kind] for name, values in medians.items()}

    def relative(name: str, reference: str, limit: float) -> list[Row]:
        if reference not in medians:
            return []
        return [Row(f"{what}: CPU relative to {name}", gateway_[CPU] / medians[reference][CPU], "x", limit)]

    return [
        Row(
            f"{what}: CPU relative to the floor",
            gateway_[CPU] / floor[CPU],
            "x",
            FLOOR_LIMIT,
            figures=figures(CPU, "µs"),
        ),
        Row(
            f"{what}: event loop relative to the floor", gateway_[LOOP] / floor[LOOP], "x", figures=figures(LOOP, "µs")
        ),
        *relative("httpx's client on asyncio", "client", 1.15),
        *relative("the naive gateway", "naive", 0.55),
        Row(
            f"{what}: calls per second relative to the floor",
            gateway_[RATE] / floor[RATE],
            "x",
            figures=figures(RATE, "calls/s"),
        ),
    ]
