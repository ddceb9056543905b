"""Draw the plots of docs/images/ from the benchmarks (`python -m benchmarks.plots`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.cases.noticing import loop_times, official_times
from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results" / "results.json"
IMAGES = ROOT / "docs" / "images"
# The title of each panel, and the prefixes of its rows.
PANELS = (
    ("Start", ("from the command",)),
    ("Noticing the end of a job", ("jobs of", "polls of")),
    ("SendJob", ("`SendJob`", "the floor of `SendJob`")),
    ("GetJob", ("`GetJob`", "the floor of `GetJob`")),
    ("Many watches", ("an event", "the longest pause", "memory of", "from the response")),
    ("A 50 MB result", ("a 50 MB result",)),
    ("Polls", ("a poll that finds", "TLS handshakes", "growth")),
)
MET, MISSED, OFFICIAL = "#2a7f62", "#c8553d", "#8d99ae"
# Longer bars are cut.
WIDEST = 2.0
# Watches of this age poll at the longest interval.
SETTLED_SECONDS = 90.0


def draw() -> None:
    """Write all plots. The same input gives the same bytes."""
    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "jobgateway", "svg.fonttype": "none", "font.size": 9}
    IMAGES.mkdir(exist_ok=True)
    _save(_poll_interval(), "poll-interval", "benchmarks/cases/noticing.py")
    results = RESULTS.read_bytes()
    source = f"results.json, SHA-256 {hashlib.sha256(results).hexdigest()}"
    _save(_targets(json.loads(results)["rows"]), "benchmark-targets", source)


def _save(figure: Figure, name: str, source: str) -> None:
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None, "Source": source}, facecolor="white")
    plt.close(figure)


def _poll_interval() -> Figure:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for seed in range(5):
        times = asyncio.run(loop_times(seed, SETTLED_SECONDS, fresh=False))
        label = "gateway (5 watches)" if seed == 0 else None
        axes.plot(*_intervals(times), ".", markersize=4, color=MET, label=label)
    times = official_times(SETTLED_SECONDS)
    axes.plot(*_intervals(times), drawstyle="steps-post", color=OFFICIAL, label="official client")
    axes.set(xlim=(0, SETTLED_SECONDS), ylim=(0, None))
    axes.set(xlabel="age of the watch in seconds", ylabel="seconds until the next poll")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _intervals(times: list[float]) -> tuple[list[float], list[float]]:
    return times[:-1], [later - earlier for earlier, later in pairwise(times)]


def _targets(rows: list[dict[str, Any]]) -> Figure:
    panels = [
        (title, [row for row in rows if row["limit"] and row["what"].startswith(begins)]) for title, begins in PANELS
    ]
    panels = [(title, chosen) for title, chosen in panels if chosen]
    heights = [len(chosen) + 1.2 for _, chosen in panels]
    figure, all_axes = plt.subplots(
        len(panels),
        figsize=(9, 0.2 * sum(heights) + 0.6),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axes, (title, chosen) in zip(all_axes[:, 0], panels, strict=True):
        parts = [_part_of_target(row) for row in chosen]
        colors = [MET if row["met"] else MISSED for row in chosen]
        axes.barh([row["what"].replace("`", "") for row in chosen], [min(part, WIDEST) for part in parts], color=colors)
        axes.axvline(1.0, color="black", linewidth=1)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        axes.set_xlim(0, WIDEST)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0, labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    all_axes[-1, 0].set_xlabel("measured ÷ target; a bar that ends left of the line meets its target")
    return figure


def _part_of_target(row: dict[str, Any]) -> float:
    part: float = row["limit"] / row["value"] if row["at_least"] else row["value"] / row["limit"]
    return part


if __name__ == "__main__":
    draw()
