"""The numbers of several jobs by their end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.cli.job_lines import succeeded

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb


@dataclass
class Tally:
    """The numbers of jobs by their end; `failed` without the `unknown` ones, whose watch has failed."""

    jobs: int
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0

    def ended(self, job: pb.Job) -> None:
        """Count a job that has ended."""
        if succeeded(job):
            self.succeeded += 1
        else:
            self.failed += 1

    @property
    def line(self) -> str:
        """The numbers in one line."""
        running = self.jobs - self.succeeded - self.failed - self.unknown
        numbers = {"running": running, "succeeded": self.succeeded, "failed": self.failed, "unknown": self.unknown}
        return f"{self.jobs} jobs: " + ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
