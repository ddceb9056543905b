"""The numbers of several jobs by their end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.cli.display.job_lines import END_WORDS, end_word, succeeded

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb


@dataclass
class Tally:
    """The numbers of jobs by their end; `unsuccessful` without the `unknown` ones, whose watch has failed."""

    jobs: int
    unsuccessful: int = 0
    unknown: int = 0
    # In the order of the words, and not of the jobs.
    _ends: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(END_WORDS.values(), 0)))

    def ended(self, job: pb.Job) -> None:
        """Count a job that has ended."""
        self._ends[end_word(job)] += 1
        self.unsuccessful += not succeeded(job)

    @property
    def line(self) -> str:
        """The numbers in one line."""
        running = self.jobs - self._ends.total() - self.unknown
        numbers = {"running": running, **self._ends, "unknown": self.unknown}
        return f"{self.jobs} jobs: " + ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
