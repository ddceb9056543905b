"""The body of a POST that sends a job, and the checks of the REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.simulator.json_fields import decode_fields
from gateway.simulator.parameters import Parameters
from gateway.simulator.script import Ending, JobScript

REFUSE = "refuse"
"""The `method_name` whose POST returns 400 with the body `params.errors`."""

_NonEmpty = Annotated[str, Meta(min_length=1)]


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    poll_result: bool = False
    method_name: _NonEmpty | UnsetType = UNSET
    method_type: _NonEmpty | UnsetType = UNSET
    editor_session: UUID | UnsetType = UNSET
    params: Parameters | None = None
    events: list[str] = []
    timeout: Annotated[int, Meta(ge=1, le=86_400)] = 86_400
    arguments: Parameters | None = None
    method: _NonEmpty | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A valid POST.

    Attributes:
        method_name: the value of `method_name` or `method`; `succeed` if both are absent.
        poll_result: True if the POST waits for the end of the job, up to `parameters.hold` seconds.
        timeout: the most seconds that the job may take.
        parameters: the choices in `params` (or `arguments`).

    """

    method_name: str
    poll_result: bool
    timeout: int
    parameters: Parameters

    def script(self) -> JobScript:
        """Return the script of the job. With an unknown method name it succeeds."""
        known = self.method_name in Ending.__members__.values()
        ending = Ending(self.method_name) if known else Ending.SUCCEED
        return JobScript(
            ending=ending,
            duration=self.parameters.duration,
            time_limit=self.timeout,
            steps=self.parameters.step_count(),
            ignores_cancel=self.parameters.ignore_cancel,
            hides_end=ending is Ending.UNKNOWN_STATUS and self.parameters.sign_of_end == "none",
        )


def read_submission(body: bytes) -> Submission:
    """Read and check the body of a POST.

    Raises:
        FieldErrors: fields have a wrong type or a value out of range.
        ValueError: the body is not a JSON object.

    """
    read = decode_fields(_Body, body)
    return Submission(
        method_name=read.method_name or read.method or Ending.SUCCEED,
        poll_result=read.poll_result,
        timeout=read.timeout,
        parameters=read.params or read.arguments or Parameters(),
    )
