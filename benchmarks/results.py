"""Writes `benchmarks/results/`: the table, the figures, the plots, and on what they were measured."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import psutil
from matplotlib import pyplot as plt

from benchmarks.processes import ROOT
from benchmarks.table import Row, as_markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("grpcio", "protobuf", "httpx", "httpx-aiohttp", "aiohttp", "msgspec", "uvloop", "prometheus-client")


def write(rows: Iterable[Row], seconds: float) -> None:
    """Replaces what an earlier run wrote."""
    rows = list(rows)
    RESULTS.mkdir(exist_ok=True)
    machine = _machine() | {"seconds": round(seconds)}
    (RESULTS / "results.json").write_text(
        json.dumps({"machine": machine, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
    )
    told = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    (RESULTS / "README.md").write_text(f"# Measured\n\n{told}\n\n{as_markdown(rows)}\n![ratios](ratios.png)\n")
    _plot(rows)


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _plot(rows: list[Row]) -> None:
    """How far each target is reached: 1 is the target itself, and less is better."""
    mpl.use("Agg")
    aimed = [row for row in rows if row.limit]
    parts = [row.limit / row.value if row.at_least else row.value / row.limit for row in aimed if row.limit]
    figure, axes = plt.subplots(figsize=(10, 0.3 * len(aimed) + 1))
    axes.barh([row.what for row in aimed], parts, color=["tab:green" if row.met else "tab:red" for row in aimed])
    axes.axvline(1.0, color="black")
    axes.set_xlabel("measured over target: left of the line it is reached")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(RESULTS / "ratios.png", dpi=100)
    plt.close(figure)
