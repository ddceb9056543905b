"""The rows of the results, and the Markdown table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Name = TypeVar("Name")


@dataclass(frozen=True)
class Row:
    """A measurement.

    Attributes:
        what: The name of the measurement.
        value: The measured value.
        unit: The unit of the value and the limit; empty for a number.
        limit: The target; None if the value is only information.
        at_least: The value must be at least the limit, instead of at most.
        figures: The measurements from which the value is computed.
        note: A text after the figures.

    """

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool:
        """True if the value meets the target, or there is none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return the row as it is written to results.json."""
        return asdict(self) | {"met": self.met}


def as_markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| measurement | value | target | met | figures |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        limit = "" if row.limit is None else f"{'at least' if row.at_least else 'at most'} {row.limit:g} {row.unit}"
        met = "" if row.limit is None else "yes" if row.met else "**no**"
        figures = ", ".join(f"{name} {value:,.4g}" for name, value in row.figures.items())
        lines.append(f"| {row.what} | {row.value:.4g} {row.unit} | {limit} | {met} | {figures} {row.note} |")
    return "\n".join(lines) + "\n"


def interleaved(rounds: int, measures: Mapping[Name, Callable[[], float]]) -> dict[Name, float]:
    """Return the median of each measure. Each round runs all measures, one after the other."""
    measured: dict[Name, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            measured[name].append(measure())
    return {name: median(values) for name, values in measured.items()}
