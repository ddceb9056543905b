"""The scenarios of `clients/scenarios.json`."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CLIENTS = Path(__file__).resolve().parent.parent
SERVICE_CONFIG = CLIENTS / "service_config.json"
DIRECT_SERVICE_CONFIG = CLIENTS / "service_config_direct.json"

Line = dict[str, Any]

SENDING = frozenset({"send", "run"})
"""The steps that send jobs."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(_Model):
    """A fault that the client meets.

    Attributes:
        when: The time of the fault: at the start, after a number of lines of a kind (`job`, or `watch.job` for those of
            a step; `done` for jobs that have ended, `step` for those with a message), after a number of submissions
            that reached the upstream (`posts`), after the upstream has shown the end of a number of jobs (`ends`),
            before the client learns that a number of calls has failed (`failed`), or after a number of bytes to the
            client (`bytes`; only `cut`, `restart` and `hold`).
        kind: The kind of fault, injected by `Stack`. `hold`: the client receives nothing until `release`.
        code: For `end`, a gRPC status. For `reset`, an HTTP/2 error. For `respond`, a gRPC status or an HTTP status.

    """

    when: Literal["start"] | dict[str, Annotated[int, Field(ge=1)]]
    kind: Literal[
        "cut",
        "blackhole",
        "hold",
        "release",
        "end",
        "reset",
        "respond",
        "restart",
        "drain",
        "upstream_down",
        "upstream_up",
        "expire_token",
    ] = Field(alias="fault")
    code: str = ""

    @property
    def at_bytes(self) -> int | None:
        """The number of bytes after which the fault occurs, None if it does not depend on bytes."""
        return None if self.when == "start" else self.when.get("bytes")

    def is_due(self, counts: dict[str, int]) -> bool:
        """Return whether the fault is due, given the number of lines of each kind."""
        return self.when == "start" or all(counts.get(kind, 0) >= number for kind, number in self.when.items())


class Pace(_Model):
    """The clock of the jobs. It advances with the lines of the client, and no result depends on the machine's speed.

    After a fault, the clock stops until the client has resumed and received an event. That event is a heartbeat, or a
    repeated state if the client did not pass its resume token.

    Attributes:
        per: The kind of line that advances the clock, such as `watch.job`, or `run.step`, because the first state of a
            `run` has not been read from the upstream.
        seconds: The time that passes for the jobs with each such line. With N jobs of the same steps, at least an Nth
            of a step, or the clock stops when each job has reported its present step.

    """

    per: str
    seconds: Annotated[float, Field(gt=0)]


class Sent(_Model):
    """Jobs that another client has sent, at another gateway.

    Attributes:
        uid: The uid of the first one; those of the others follow.
        count: The number of jobs.
        params: The parameters of each.

    """

    uid: int
    count: Annotated[int, Field(ge=1)] = 1
    params: Line


class Scenario(_Model):
    """The steps of a client, the faults that it meets, and the expected observations.

    Attributes:
        name: The name of the row in the table.
        about: A description.
        steps: The steps of the client (clients/README.md); `{unique}` in them becomes a new id for each run.
        sent: Jobs that run before the client starts. If the gateway of the run had sent them, it would wait 15 seconds
            before it reports that their token is rejected.
        faults: The faults that the client meets.
        direct: Give the client the service config for direct connections, which checks the health of gateways.
        gateway: Additional settings of the gateway.
        upstream_delay_seconds: The delay of each response of the upstream.
        pace: The clock of the job; without it, time passes as usual.
        expect: Patterns that lines must match in this order; other lines may come between them.
        never: Patterns that no line may match.
        never_with_service_config: The same for clients that read the service config.
        result: The result of each job as JSON, if it is not the one that the steps request.
        posts: The number of submissions that must reach the upstream.
        posted: A pattern for the body of each submission.
        requested: A path that must be requested from the upstream.
        connections: The most connections that the client may make.

    """

    name: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    about: str
    steps: list[Line]
    sent: Sent | None = None
    faults: list[Fault] = []
    direct: bool = False
    gateway: dict[str, str] = {}
    upstream_delay_seconds: float = 0
    pace: Pace | None = None
    expect: list[Line]
    never: list[Line] = []
    never_with_service_config: list[Line] = []
    result: str = ""
    posts: int = 1
    posted: Line = {}
    requested: str = ""
    connections: int | None = None

    def file(self) -> str:
        """Return the scenario file for one run."""
        return json.dumps({"steps": self.steps}).replace("{unique}", str(uuid.uuid4()))

    @property
    def service_config(self) -> Path:
        """The file with the service config for the client."""
        return DIRECT_SERVICE_CONFIG if self.direct else SERVICE_CONFIG

    def params(self) -> list[Line]:
        """Return the parameters of each job that the steps send."""
        sends = [step for step in self.steps if step["do"] in SENDING]
        return [step["request"].get("params", {}) for step in sends for _ in range(step.get("count", 1))]


def load() -> list[Scenario]:
    """Return all scenarios of the file.

    Raises:
        pydantic.ValidationError: A scenario is invalid.

    """
    return [Scenario.model_validate(each) for each in json.loads((CLIENTS / "scenarios.json").read_text())]
