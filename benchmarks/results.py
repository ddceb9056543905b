"""Write the results to `benchmarks/results/`, and draw the plots of docs/images/."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import plots
from benchmarks.processes import ROOT
from benchmarks.table import Row, as_markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = (
    "grpcio",
    "protobuf",
    "httptools",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "msgspec",
    "uvloop",
    "prometheus-client",
)


def write(rows: Iterable[Row], seconds: float) -> None:
    """Replace the results of an earlier run."""
    rows = list(rows)
    RESULTS.mkdir(exist_ok=True)
    machine = _machine() | {"seconds": round(seconds)}
    (RESULTS / "results.json").write_text(
        json.dumps({"machine": machine, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
    )
    properties = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    (RESULTS / "README.md").write_text(
        f"# Results\n\n{properties}\n\n{as_markdown(rows)}\n![ratios](../../docs/images/benchmark-targets.svg)\n"
    )
    plots.draw()


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
